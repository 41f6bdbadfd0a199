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


LARGEST_GATHER = 200_000
"""Places that data movement without strides may name in the page."""
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


def square(to: Steps, x: Value) -> Value:
    return power(to, x, 2.0)


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


def where(to: Steps, condition: Operand, a: Operand, b: Operand) -> Value:
    """`a` where the condition is not 0, else `b`, with broadcasting."""
    values = [to.value(operand) for operand in (condition, a, b)]
    shape = torch.broadcast_shapes(*(value.shape for value in values))
    return to.step("where", [to.view(torch.ops.aten.expand.default, v, list(shape)) for v in values], shape)


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
    kernels = to.value(weight)
    need(len(x.shape) == 4 and len(kernels.shape) == 4, "convolution of another dimension than two")
    steps, holes = pair(stride), pair(dilation)
    reach = [d * (k - 1) for d, k in zip(holes, kernels.shape[2:])]
    if padding == "same":
        need(all(r % 2 == 0 for r in reach), "convolution padded more on one side")
        around = [r // 2 for r in reach]
    else:
        around = [0, 0] if padding == "valid" else pair(padding)
    size = [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in zip(x.shape[2:], around, reach, steps)]
    return to.step(
        "conv",
        [x, kernels, None if bias is None else to.value(bias)],
        (x.shape[0], kernels.shape[0], *size),
        input=list(x.shape[1:]),
        kernel=list(kernels.shape[2:]),
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
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *rest: Any,
) -> Value:
    if training or mean is None or var is None:  # by the statistics of what is given: of one image, or of weights
        need(x.shape[0] == 1, "batch norm by the statistics of the batch")
        return group_norm(to, x, x.shape[1], weight, bias, eps)
    scale = (var.double() + eps).rsqrt() * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    inner = math.prod(x.shape[2:])
    return to.step("affine", [x, to.value(scale), to.value(shift)], x.shape, channels=x.shape[1], inner=inner)


def linear(to: Steps, x: Value, weight: Operand, bias: Operand | None = None) -> Value:
    matrix = to.value(weight)
    need(len(matrix.shape) == 2, "linear layer of this kind")
    inputs = [x, matrix, None if bias is None else to.value(bias)]
    shape = (*x.shape[:-1], matrix.shape[0])
    return to.step("linear", inputs, shape, rows=math.prod(x.shape[:-1]), k=matrix.shape[1])


def matmul(to: Steps, a: Operand, b: Operand) -> Value:
    """Products of matrices, one for each place of the leading dimensions, which may be broadcast."""
    first, second = to.value(a), to.value(b)
    need(len(first.shape) > 1 and len(second.shape) > 1, "product with a vector")
    lead = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    expand = torch.ops.aten.expand.default
    first, second = (to.view(expand, v, [*lead, *v.shape[-2:]]) for v in (first, second))
    (m, k), n = first.shape[-2:], second.shape[-1]
    return to.step("matmul", [first, second], (*lead, m, n), batch=math.prod(lead), m=m, k=k, n=n)


def add_matmul(to: Steps, added: Operand, a: Operand, b: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    need(alpha == beta == 1, "sum with a factor")
    return binary("add")(to, matmul(to, a, b), added)


def attention(
    to: Steps,
    q: Value,
    k: Value,
    v: Value,
    mask: Operand | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(q k' scale + mask) v for each head."""
    need(not enable_gqa, "attention with grouped queries")
    scores = matmul(to, q, to.view(torch.ops.aten.transpose.int, k, -2, -1))
    scores = binary("mul")(to, scores, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    if mask is not None:
        scores = binary("add")(to, scores, mask)
    return matmul(to, softmax(to, scores, -1), v)


def softmax(to: Steps, x: Value, dim: int, *rest: Any, **kwargs: Any) -> Value:
    last = len(x.shape) - 1
    swap = torch.ops.aten.transpose.int
    moved = x if dim % (last + 1) == last else to.view(swap, x, dim, last)
    result = to.step("softmax", [moved], moved.shape, size=moved.shape[-1])
    return result if moved is x else to.view(swap, result, dim, last)


def vector_norm(to: Steps, x: Value, order: float = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    need(order == 2, f"norm of order {order}")
    return unary("sqrt")(to, reduction("sum")(to, power(to, x, 2.0), dim, keepdim))


def addcmul(to: Steps, x: Operand, a: Operand, b: Operand, *, value: float = 1) -> Value:
    product = binary("mul")(to, a, b)
    return binary("add")(to, x, product if value == 1 else binary("mul")(to, product, value))


def stack(to: Steps, parts: Sequence[Operand], dim: int = 0) -> Value:
    insert = torch.ops.aten.unsqueeze.default
    return concatenate(to, [to.view(insert, to.value(part), dim) for part in parts], dim)


def roll(to: Steps, x: Value, shifts: Any, dims: Any = ()) -> Value:
    moves, axes = ([v] if isinstance(v, int) else list(v) for v in (shifts, dims))
    need(len(moves) == len(axes), "roll of the flattened tensor")
    cut = torch.ops.aten.slice.Tensor
    for move, axis in zip(moves, axes):
        size = x.shape[axis]
        if at := -move % size:
            x = concatenate(to, [to.view(cut, x, axis, at, size), to.view(cut, x, axis, 0, at)], axis)
    return x


def gathered(name: str) -> Callable[..., Value]:
    """Data movement that is no stride: torch moves the numbers 1, 2, 3 ... and so says what lies where; 0 is nothing."""

    def operation(to: Steps, x: Value, *args: Any, **kwargs: Any) -> Value:
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        need(not any(isinstance(leaf, Value) for leaf in leaves), f"{name} at computed places")
        places = torch.arange(1, math.prod(x.shape) + 1, dtype=torch.float64).view(x.shape)
        moved = getattr(torch.ops.aten, name)(places, *args, **kwargs).long() - 1
        need(moved.numel() <= LARGEST_GATHER, f"{name} of {moved.numel():,} numbers")
        return to.step("gather", [x], moved.shape, at=moved.flatten().tolist())

    return operation


def conv1d(
    to: Steps,
    x: Value,
    weight: Operand,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """As a convolution of images of one row."""
    insert, remove = torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim
    steps, around, holes = ([0 if i == 1 else 1, single(v)] if not isinstance(v, str) else v
                            for i, v in enumerate((stride, padding, dilation)))  # fmt: skip
    rows = conv2d(to, to.view(insert, x, 2), to.view(insert, to.value(weight), 2), bias, steps, around, holes, groups)
    return to.view(remove, rows, 2)


def single(values: int | Sequence[int]) -> int:
    """The one number of what torch takes as a number or a list of one."""
    return values if isinstance(values, int) else next(iter(values))


def convolution(
    to: Steps,
    x: Value,
    weight: Operand,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *rest: Any,
) -> Value:
    need(not transposed, "transposed convolution")
    kind = conv1d if len(x.shape) == 3 else conv2d
    return kind(to, x, weight, bias, stride, padding, dilation, rest[-1])


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
    **{name: unary(name) for name in ("rsqrt", "neg", "abs", "relu6", "mish", "softplus", "erf", "sin", "cos", "log")},
    "leaky_relu": unary("leaky_relu", 0.01),
    "elu": unary("elu", 1.0),
    "gelu": gelu,
    "clamp": clamp,
    "clamp_min": clamp,
    "hardtanh": hardtanh,
    "pow": power,
    **{name: binary(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    **{name: binary(name) for name in ("le", "lt", "ge", "gt", "eq", "ne")},
    "where": where,
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "_to_copy", "detach"), same
    ),
    "conv2d": conv2d,
    "batch_norm": batch_norm,
    "linear": linear,
    "matmul": matmul,
    "bmm": matmul,
    "mm": matmul,
    "addmm": add_matmul,
    "addcmul": addcmul,
    "square": square,
    "stack": stack,
    "roll": roll,
    "linalg_vector_norm": vector_norm,
    "conv1d": conv1d,
    "convolution": convolution,
    "_softmax": softmax,
    **{
        name: gathered(name)
        for name in ("index", "index_select", "gather", "flip", "im2col", "upsample_nearest2d", "repeat")
    },
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
