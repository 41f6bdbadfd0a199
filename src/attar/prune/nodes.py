"""What the nodes of a captured graph say: which operation, of which module, with results of which sizes."""

from __future__ import annotations

from typing import Any

import torch

from attar.prune.families import OF_TWO
from attar.prune.graph import is_free
from attar.prune.labels import hint


def operation_name(target: Any) -> str:
    """`aten.add_.Tensor` -> `add`; operations of other libraries keep their full name."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(getattr(target, "__name__", target))
    if schema.overload_name == "other" and schema.name in OF_TWO:
        return OF_TWO[schema.name]
    library, _, name = schema.name.partition("::")
    return name.rstrip("_") if library == "aten" else schema.name


def modules_around(node: torch.fx.Node) -> list[str]:
    """Paths of the modules whose code calls this operation, from the outside in."""
    return [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def place(node: torch.fx.Node) -> str:
    """`conv2d in layer1.0.conv1`: an operation and the module whose code calls it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(p) for p, _ in reversed(list(stack.values())) if not str(p).startswith("_empty")), "")
    name = operation_name(node.target) if node.op == "call_function" else node.name
    return f"{name} in {path}" if path else name


def described(fake: torch.Tensor, free: frozenset[int] | None = None) -> tuple[tuple[int, ...], frozenset[int]]:
    """Sizes as numbers, and which of them are free, unless that is known: those that `torch.export` gave no number."""
    if free is not None:
        return tuple(fake.shape), free
    free = frozenset(d for d, size in enumerate(fake.shape) if is_free(size))
    return tuple(hint(size) for size in fake.shape), free


def hints(fake: Any) -> list[tuple[int, ...]]:
    """Sizes, as the example has them, of all tensors that an operation gives."""
    results = fake if isinstance(fake, list | tuple) else [fake]
    return [tuple(hint(size) for size in f.shape) for f in results if isinstance(f, torch.Tensor)]


def sized_by_data(fake: Any) -> bool:
    """Whether a tensor has a size of which the example says nothing, as it is counted while the network runs."""
    results = fake if isinstance(fake, list | tuple) else [fake]
    sizes = [size for f in results if isinstance(f, torch.Tensor) for size in f.shape]
    return any(isinstance(size, torch.SymInt) and size.node.hint is None for size in sizes)


def number(fake: Any) -> Any:
    """A size or flag computed by the graph, as the example has it."""
    if isinstance(fake, torch.SymInt | torch.SymFloat | torch.SymBool):
        return fake.node.hint
    if isinstance(fake, list | tuple):
        return [number(item) for item in fake]
    return fake
