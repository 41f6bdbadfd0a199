"""A captured graph, and the error where none can be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


class CaptureError(ValueError):
    """The network cannot be turned into a graph; the message says what stood in the way."""


@dataclass
class Graph:
    """One captured graph: its operations and what its inputs stand for."""

    module: torch.fx.GraphModule
    tensors: dict[str, str]
    """Placeholder -> qualified name of the parameter or buffer in the network."""
    constants: dict[str, torch.Tensor]
    """Placeholder -> tensor that the code made when captured."""
    inputs: tuple[str, ...]
    """Placeholders of the example inputs, in the order of the flattened call."""
    specs: tuple[Any, Any] = field(repr=False, default=(None, None))
    """How arguments and outputs are flattened (pytree specs)."""
    exported: bool = True
    """Whether `torch.export` made it; a quick trace says as much of labels, and is shipped only where the export has the
    example's batch written into it."""
    asks: bool = False
    """Whether the code asked if a tensor is true, so that only the way which the example takes was seen."""
    numbers: list[Any] = field(repr=False, default_factory=list)
    """Arguments that are written into it, `tensor` in the place of others; in the order of the flattened call."""


def batch_is_free(graph: Graph) -> bool:
    """Whether the graph takes batches of any size."""
    for node in graph.module.graph.nodes:
        fake = node.meta.get("val")
        if node.name in graph.inputs and isinstance(fake, torch.Tensor):
            free = node.meta.get("free") or [any(map(is_free, fake.shape))]
            if free[0]:
                return True
    return False


def is_free(size: Any) -> bool:
    """Whether a size of an exported graph may be another than the example's; code may have fixed one that was to be free."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def numbers(leaves: list[Any]) -> list[Any]:
    """The arguments of a call, `tensor` in the place of those that are tensors."""
    return ["tensor" if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
