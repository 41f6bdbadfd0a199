"""What looks at windows of an image: convolutions and pools."""

from __future__ import annotations

import math
from typing import Any

import torch

from attar.report.operations.steps import Operand, Steps, Value, need, pair, single


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
    need(x.shape[0] == 1, "convolution of many images made of one")
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


def pool(
    to: Steps, x: Value, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, **attributes: Any
) -> Value:
    """A window over the image; torch itself says how many places it has."""
    window, around, holes = pair(kernel), pair(padding), pair(dilation)
    steps = pair(stride) if stride not in ([], None) else window
    size = torch.nn.functional.max_pool2d(torch.empty(x.shape), window, steps, around, holes, ceil).shape
    return to.step("pool", [x], size, input=[math.prod(x.shape[:-2]), *x.shape[-2:]], kernel=window, stride=steps,
                   padding=around, dilation=holes, **attributes)  # fmt: skip


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
