"""Movement of data that is more than another stride."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from attar.report.operations.steps import Operand, Steps, Value, need

LARGEST_GATHER = 200_000
"""Places that data movement without strides may name in the page."""


def concatenate(to: Steps, parts: Sequence[Operand], dim: int = 0) -> Value:
    values = [to.value(part) for part in parts]
    axis = dim % len(values[0].shape)
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    blocks = [math.prod(v.shape[axis:]) for v in values]
    return to.step("cat", values, shape, blocks=blocks, outer=math.prod(shape[:axis]))


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
