"""What networks answer in float64, without chance, and how far two answers are apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attar.models import in_mode
from attar.prune.masked import widened
from attar.prune.modules import cards_of

TOLERANCE = 1e-10
"""Largest relative error that passes."""
NEXT_TO_NOTHING = 1e-3
"""An answer of which a smaller share changes with the inputs is compared by that share."""
ROUNDED = 1e-13
"""Relative differences that rounding in float64 may make of a number."""
NEAR_ZERO = 0.1
"""Share of the usual magnitude in an answer: what is smaller is a difference of such numbers, and is rounded as they are."""


class _Exact(TorchDispatchMode):
    """Casts to smaller floating types become casts to float64, and dropout, which draws by `bernoulli_`, keeps everything."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles in here; torch would load its compiler, a second or more, to keep it out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: widened(item) for key, item in (kwargs or {}).items()}
        if func is torch.ops.aten.bernoulli_.float:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        if func is torch.ops.aten.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **kwargs)


@contextmanager
def double_precision(model: nn.Module) -> Iterator[None]:
    """New floating tensors are float64 inside; random numbers that the model draws are drawn again after."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cards_of(model)):
            yield
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def output(model: nn.Module, call: tuple[Any, Any], training: bool = False) -> list[torch.Tensor]:
    """All tensors that the network answers with, in eval or train mode."""
    with in_mode(model, training), _Exact():
        found = model(*call[0], **call[1])
    if not isinstance(found, torch.Tensor | tuple | list | dict) and hasattr(found, "to_tuple"):
        found = found.to_tuple()
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def same_shapes(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two answers are of as many tensors, of the same shapes."""
    return [tensor.shape for tensor in first] == [tensor.shape for tensor in second]


def not_finite(answer: list[torch.Tensor]) -> int:
    """How many elements are infinite or NaN."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in answer)


def largest_change(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference over the largest magnitude, of what is finite; 1 at most."""
    a, b = (tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in (first, second))
    finite = a.isfinite() & b.isfinite()
    if not bool(finite.any()):
        return 0.0
    size = float(a.abs().where(finite, 0).max())
    return min(1.0, float((a - b).abs().where(finite, 0).max()) / size) if size else 0.0


def relative_error(
    first: list[torch.Tensor], second: list[torch.Tensor], change: Sequence[float] | None = None
) -> float:
    """Largest difference over the largest finite magnitude of the first; infinite where shapes or numbers of outputs differ.

    Infinities are equal to their like. NaN equals nothing.

    Args:
        first, second: the answers.
        change: of each tensor, how much of that magnitude changes with the inputs. Where it is next to nothing (one logit is
            -1e9, say), what a difference has beyond rounding is measured by that, too, and the larger of the two counts.
    """
    if not same_shapes(first, second):
        return float("inf")
    worst = 0.0
    for a, b, share in zip(
        first, second, change if change is not None and len(change) == len(first) else [1.0] * len(first)
    ):
        if not a.numel():
            continue
        a, b = (tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in (a, b))
        size = a.abs().where(a.isfinite(), 0)
        scale = float(size.max().clamp_min(torch.finfo(torch.float64).tiny))
        difference = (a - b).abs().where(a != b, 0)
        error = float(difference.max()) / scale
        if 0 < share < NEXT_TO_NOTHING:
            beyond = (difference - ROUNDED * size.clamp_min(NEAR_ZERO * float(size.median()))).clamp_min(0)
            error = max(float(beyond.max()) / (scale * share), error)
        worst = max(worst, error if error == error else float("inf"))
    return worst
