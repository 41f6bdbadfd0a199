"""Walks over the modules of a network and what they hold; a step of pruning asks often."""

from __future__ import annotations

import torch
from torch import nn


def all_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by every path, outermost first: `named_modules(remove_duplicate=False)`, which takes longer."""
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        found[path] = module
        children = [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items()]
        waiting += [(name, child) for name, child in reversed(children) if child is not None]
    return found


def named_tensors(model: nn.Module, buffers: bool = True) -> dict[str, torch.Tensor]:
    """All parameters by their first qualified name, then all buffers if these are wanted."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    modules = all_modules(model)
    for kind in ("_parameters", "_buffers") if buffers else ("_parameters",):
        for path, module in modules.items():
            for name, tensor in vars(module)[kind].items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{path}.{name}" if path else name] = tensor
    return found


def cards_of(model: nn.Module) -> list[int]:
    """Numbers of the GPUs that hold its parameters: those whose random state a call may move."""
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
