"""Which dimension of a call's tensors is the batch: the first, where all of them share it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def shared_batch(shapes: Iterable[Sequence[int]]) -> int | None:
    """The length of the first dimension of all shapes; None where it differs, or no shape has one. Scalars have no say."""
    lengths = {shape[0] for shape in shapes if len(shape)}
    return lengths.pop() if len(lengths) == 1 else None


def batched(leaf: Any) -> bool:
    """Whether an argument is a tensor that may have a batch: any but a scalar."""
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


def longer(leaf: Any) -> Any:
    """An argument with one sample more, its first once again; what has no batch is as it was."""
    return torch.cat([leaf, leaf[:1]]) if batched(leaf) else leaf
