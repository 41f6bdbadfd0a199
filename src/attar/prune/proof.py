"""Proof: the cut network must compute what the original computes with the removed units masked, in float64."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from attar.prune.capture import in_mode, named_tensors
from attar.prune.surgery import Indices

TOLERANCE = 1e-10
"""Largest relative error that passes."""


class ProofError(RuntimeError):
    """A cut network does not compute what the masked original does. Nothing was changed."""


def proving_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in which no tensor is constant: a zero or one everywhere would hide an error behind it."""
    twin = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in named_tensors(twin).values():
            if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()):
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
                tensor.copy_(tensor * (0.5 + noise) if bool(tensor.any()) else 0.2 * (noise - 0.5))
    return twin


def random_call(arguments: Any, keywords: Any, device: torch.device, seed: int = 0) -> tuple[Any, Any]:
    """The example's arguments with fresh float64 numbers where they were floating."""
    generator = torch.Generator().manual_seed(seed + 1)

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if not leaf.is_floating_point():
            return leaf.to(device)
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(device)

    return tree_map(fresh, (arguments, keywords))


def mask_tensors(model: nn.Module, indices: Indices) -> None:
    """Zero what a cut would remove: the slices that make the removed units and those that read them."""
    tensors = named_tensors(model)
    with torch.no_grad():
        for name, cuts in indices.items():
            for dim, index in cuts:
                gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
                gone[index] = False
                tensors[name].index_fill_(dim, torch.nonzero(gone)[:, 0].to(tensors[name].device), 0)


@torch.no_grad()
def output(model: nn.Module, call: tuple[Any, Any]) -> list[torch.Tensor]:
    """All tensors that the network answers with, in eval mode."""
    with in_mode(model, False):
        found = model(*call[0], **call[1])
    if not isinstance(found, torch.Tensor | tuple | list | dict) and hasattr(found, "to_tuple"):
        found = found.to_tuple()
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def relative_error(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Largest difference over the largest magnitude of the first; infinite where shapes or numbers of outputs differ."""
    if len(first) != len(second) or any(a.shape != b.shape for a, b in zip(first, second)):
        return float("inf")
    worst = 0.0
    for a, b in zip(first, second):
        scale = float(a.abs().max().clamp_min(torch.finfo(torch.float64).tiny)) if a.numel() else 1.0
        error = float((a - b).abs().max()) / scale if a.numel() else 0.0
        worst = max(worst, error if error == error else float("inf"))
    return worst
