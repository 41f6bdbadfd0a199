"""What each of torch's operations becomes in a program for the report's page: one function for each kind.

Every function gets the translator (which adds steps) and the operation's own arguments: a `Value` is computed by the
page, a tensor is known now. Those of an operation that the page cannot run as asked raise NotRunnableError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class NotRunnableError(ValueError):
    """The page's interpreter cannot run this network; the message says why, for people."""


@dataclass(frozen=True)
class Value:
    """A tensor of the running network: always float32 and contiguous."""

    id: int
    shape: tuple[int, ...]


Operand = Value | Tensor | float


class Steps(Protocol):
    """Where the operations put what they become."""

    def step(self, kind: str, inputs: Sequence[Value | None], shape: Sequence[int], **attributes: Any) -> Value:
        """Add a step; its result."""

    def value(self, operand: Operand) -> Value:
        """What a step can read."""

    def view(self, target: Callable[..., Any], value: Value, *args: Any, **kwargs: Any) -> Any:
        """Move data as `target` does."""


def need(condition: bool, what: str) -> None:
    """Raise NotRunnableError unless the operation is used as the interpreter can run it."""
    if not condition:
        raise NotRunnableError(f"the page's interpreter has no {what}")


def pair(values: int | Sequence[int]) -> list[int]:
    """Height and width of what torch takes as one number or two."""
    both = [values] if isinstance(values, int) else list(values)
    return both * 2 if len(both) == 1 else both


def unary(name: str, *defaults: float) -> Callable[..., Value]:
    """A function of each element alone, with up to two numbers."""

    def operation(to: Steps, x: Value, *args: Any, **kwargs: Any) -> Value:
        given = [*args, *kwargs.values()]
        numbers = [float(v) if isinstance(v, int | float) else d for v, d in zip([*given, *defaults], defaults)]
        return to.step("unary", [x], x.shape, f=name, p=[*numbers, 0.0, 0.0][:2])

    return operation


def gelu(to: Steps, x: Value, approximate: str = "none") -> Value:
    return to.step("unary", [x], x.shape, f="gelu" if approximate == "none" else "gelu_tanh", p=[0.0, 0.0])


def clamp(to: Steps, x: Value, min: float | None = None, max: float | None = None) -> Value:
    low, high = (-3.4e38 if min is None else min), (3.4e38 if max is None else max)
    need(isinstance(low, int | float) and isinstance(high, int | float), "clamp between tensors")
    return to.step("unary", [x], x.shape, f="clamp", p=[float(low), float(high)])


def hardtanh(to: Steps, x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return clamp(to, x, min_val, max_val)


def power(to: Steps, x: Value, exponent: float) -> Value:
    need(isinstance(exponent, int | float), "power of a tensor")
    return to.step("unary", [x], x.shape, f="pow", p=[float(exponent), 0.0])


def binary(name: str) -> Callable[..., Value]:
    """A function of two elements, with broadcasting."""

    def operation(to: Steps, a: Operand, b: Operand, *, alpha: float = 1.0) -> Value:
        need(alpha == 1, "sum with a factor")
        first, second = to.value(a), to.value(b)
        shape = torch.broadcast_shapes(first.shape, second.shape)
        strides = [torch.empty(v.shape, device="meta").expand(shape).stride() for v in (first, second)]
        return to.step("binary", [first, second], shape, f=name, sa=list(strides[0]), sb=list(strides[1]))

    return operation


def same(to: Steps, x: Value, *args: Any, **kwargs: Any) -> Value:
    """What changes nothing when a network only predicts."""
    dtype = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)), torch.float32)
    need(dtype == torch.float32, f"numbers of type {dtype}")
    return x


def conv2d(
    to: Steps,
    x: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    need(isinstance(weight, Tensor) and len(x.shape) == 4, "convolution with computed weights")
    assert isinstance(weight, Tensor)
    steps, holes = pair(stride), pair(dilation)
    reach = [d * (k - 1) for d, k in zip(holes, weight.shape[2:])]
    if padding == "same":
        need(all(r % 2 == 0 for r in reach), "convolution padded more on one side")
        around = [r // 2 for r in reach]
    else:
        around = [0, 0] if padding == "valid" else pair(padding)
    size = [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in zip(x.shape[2:], around, reach, steps)]
    return to.step(
        "conv",
        [x, to.value(weight), None if bias is None else to.value(bias)],
        (1, weight.shape[0], *size),
        input=list(x.shape[1:]),
        kernel=list(weight.shape[2:]),
        stride=steps,
        padding=around,
        dilation=holes,
        groups=groups,
    )


def batch_norm(
    to: Steps,
    x: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    *rest: Any,
) -> Value:
    need(not training and mean is not None, "batch norm by the statistics of the batch")
    scale = (var.double() + eps).rsqrt() * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    inner = math.prod(x.shape[2:])
    return to.step("affine", [x, to.value(scale), to.value(shift)], x.shape, channels=x.shape[1], inner=inner)


def linear(to: Steps, x: Value, weight: Operand, bias: Operand | None = None) -> Value:
    need(isinstance(weight, Tensor), "linear layer with computed weights")
    assert isinstance(weight, Tensor)
    rows = math.prod(x.shape[:-1])
    inputs = [x, to.value(weight), None if bias is None else to.value(bias)]
    return to.step("linear", inputs, (*x.shape[:-1], weight.shape[0]), rows=rows, k=weight.shape[1])


def matmul(to: Steps, a: Operand, b: Operand) -> Value:
    """Products of matrices, one for each place of the leading dimensions."""
    first, second = to.value(a), to.value(b)
    (*lead_a, m, k), (*lead_b, k2, n) = first.shape, second.shape
    need(lead_a == lead_b and k == k2, "product of matrices with broadcasting")
    return to.step("matmul", [first, second], (*lead_a, m, n), batch=math.prod(lead_a), m=m, k=k, n=n)


def attention(
    to: Steps,
    q: Value,
    k: Value,
    v: Value,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(q k' scale) v for each head."""
    need(mask is None and not causal and not enable_gqa, "attention with a mask")
    scores = matmul(to, q, to.view(torch.ops.aten.transpose.int, k, -2, -1))
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return matmul(to, softmax(to, binary("mul")(to, scores, factor), -1), v)


def softmax(to: Steps, x: Value, dim: int, dtype: Any = None) -> Value:
    need(dim % len(x.shape) == len(x.shape) - 1, "softmax over other than the last dimension")
    return to.step("softmax", [x], x.shape, size=x.shape[-1])


def layer_norm(
    to: Steps, x: Value, size: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Value:
    normed = to.step("norm", [x], x.shape, size=math.prod(size), eps=eps)
    scaled = normed if weight is None else binary("mul")(to, normed, weight)
    return scaled if bias is None else binary("add")(to, scaled, bias)


def group_norm(
    to: Steps, x: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Value:
    normed = to.step("norm", [x], x.shape, size=math.prod(x.shape[1:]) // groups, eps=eps)
    if weight is None or bias is None:
        return normed
    inner = math.prod(x.shape[2:])
    inputs = [normed, to.value(weight), to.value(bias)]
    return to.step("affine", inputs, x.shape, channels=x.shape[1], inner=inner)


def pool(
    to: Steps, x: Value, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, **attributes: Any
) -> Value:
    """A window over the image; torch itself says how many places it has."""
    window, around, holes = pair(kernel), pair(padding), pair(dilation)
    steps = pair(stride) if stride not in ([], None) else window
    size = torch.nn.functional.max_pool2d(torch.empty(x.shape), window, steps, around, holes, ceil).shape
    return to.step("pool", [x], size, input=list(x.shape[1:]), kernel=window, stride=steps, padding=around,
                   dilation=holes, **attributes)  # fmt: skip


def max_pool2d(
    to: Steps, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    return pool(to, x, kernel, list(stride) if not isinstance(stride, int) else stride, padding, dilation, ceil_mode,
                f="max")  # fmt: skip


def avg_pool2d(
    to: Steps,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    return pool(to, x, kernel, list(stride) if not isinstance(stride, int) else stride, padding, 1, ceil_mode,
                f="avg", include=count_include_pad, divisor=divisor_override or 0)  # fmt: skip


def adaptive_avg_pool2d(to: Steps, x: Value, size: Any) -> Value:
    shape = (*x.shape[:-2], *pair(size))
    return to.step("adaptive", [x], shape, input=[math.prod(x.shape[:-2]), *x.shape[-2:]])


def reduction(name: str) -> Callable[..., Value]:
    """Mean, sum or largest over some dimensions."""

    def operation(to: Steps, x: Value, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
        every = range(len(x.shape))
        over = [d % len(x.shape) for d in ([dim] if isinstance(dim, int) else (dim or every))]
        kept = [d for d in every if d not in over]
        moved = to.view(torch.ops.aten.permute.default, x, kept + sorted(over))
        size = math.prod(x.shape[d] for d in over)
        shape = [1 if d in over else x.shape[d] for d in every if keepdim or d in kept]
        return to.step("reduce", [moved], shape, f=name, size=size)

    return operation


def concatenate(to: Steps, parts: Sequence[Operand], dim: int = 0) -> Value:
    values = [to.value(part) for part in parts]
    axis = dim % len(values[0].shape)
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    blocks = [math.prod(v.shape[axis:]) for v in values]
    return to.step("cat", values, shape, blocks=blocks, outer=math.prod(shape[:axis]))


def pad(to: Steps, x: Value, amounts: Sequence[int], mode: Any = "constant", value: float | None = None) -> Value:
    """Constant padding; the shorter form `constant_pad_nd(x, amounts, value)` has its value third."""
    if isinstance(mode, int | float):
        mode, value = "constant", float(mode)
    need(mode == "constant" and min(amounts) >= 0, f"padding of this kind ({mode})")
    ends = [(0, 0)] * (len(x.shape) - len(amounts) // 2) + list(zip(amounts[::2], amounts[1::2]))[::-1]
    shape = [before + n + after for n, (before, after) in zip(x.shape, ends)]
    strides = torch.empty(shape, device="meta").stride()
    offset = sum(before * stride for (before, _), stride in zip(ends, strides))
    return to.step("place", [x], shape, size=list(x.shape), strides=list(strides), offset=offset, fill=value or 0.0)


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: unary(name) for name in ("relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "exp", "sqrt")},
    **{name: unary(name) for name in ("rsqrt", "neg", "abs", "relu6", "mish", "softplus", "erf")},
    "leaky_relu": unary("leaky_relu", 0.01),
    "elu": unary("elu", 1.0),
    "gelu": gelu,
    "clamp": clamp,
    "clamp_min": clamp,
    "hardtanh": hardtanh,
    "pow": power,
    **{name: binary(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "_to_copy", "detach"), same
    ),
    "conv2d": conv2d,
    "batch_norm": batch_norm,
    "linear": linear,
    "matmul": matmul,
    "bmm": matmul,
    "scaled_dot_product_attention": attention,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "max_pool2d": max_pool2d,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "mean": reduction("mean"),
    "sum": reduction("sum"),
    "amax": reduction("max"),
    "cat": concatenate,
    "pad": pad,
    "constant_pad_nd": pad,
}
"""By the name that ATen's schema gives the operation, without the `_` of those that write over their input."""
