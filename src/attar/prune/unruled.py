"""Multiply-accumulates of operations that attar has no rule for, such as a GRU or LSTM: what they read stays, fixed."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from attar.models import counting_macs
from attar.prune.nodes import hints, number


def counted_macs(node: torch.fx.Node) -> int:
    """What torch counts where the operation alone is run, on zeros of the example's sizes; 0 where that cannot be done."""
    try:
        args, kwargs = tree_map(_zeros, (node.args, dict(node.kwargs)))
        apart = torch.random.fork_rng(devices=[])
        with torch.no_grad(), apart, counting_macs() as macs:
            node.target(*args, **kwargs)  # type: ignore[operator]
            return macs()
    except Exception:  # an operation of a library may ask for more than sizes
        return 0


def _zeros(item: Any) -> Any:
    if not isinstance(item, torch.fx.Node):
        return item
    fake = item.meta["val"]
    return torch.zeros(hints(fake)[0], dtype=fake.dtype) if isinstance(fake, torch.Tensor) else number(fake)
