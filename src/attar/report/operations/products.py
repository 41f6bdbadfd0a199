"""Products of matrices, attention, and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attar.report.operations.pointwise import binary
from attar.report.operations.steps import Operand, Steps, Value, need


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
    if weight is None and bias is None:
        return normed
    channels, inner = x.shape[1], math.prod(x.shape[2:])
    scale = to.value(torch.ones(channels) if weight is None else weight)
    shift = to.value(torch.zeros(channels) if bias is None else bias)
    return to.step("affine", [normed, scale, shift], x.shape, channels=channels, inner=inner)
