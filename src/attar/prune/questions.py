"""What proofs ask: random inputs of the example's kind, the same for the masked network and the cut one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from attar.prune.families import MOVES
from attar.prune.graph import Graph
from attar.prune.nodes import operation_name


@dataclass(frozen=True)
class Question:
    """What the networks are asked in proofs: which random inputs, and how far their answers change with them."""

    numbers: str
    """Where floating numbers come from: `normal` ones, the `range` of the example's, or the `example`'s own, shuffled over its
    samples: a column that is a category has no others."""
    drawn: bool
    """Ids from the whole of the table that they look up, where the example has the same everywhere."""
    change: Sequence[float] = ()
    """Of each tensor of the answer: the largest change between two random inputs, as a share of its largest magnitude."""
    whole: bool = False
    """Whether the answer is whole numbers alone."""

    @property
    def says_little(self) -> bool:
        """Whether a wrong cut could give the same answer: it does not depend on the inputs, or is of classes, say."""
        return self.whole or not any(self.change)


QUESTIONS = tuple(Question(numbers, drawn) for numbers in ("normal", "range", "example") for drawn in (True, False))


def random_call(
    arguments: Any,
    keywords: Any,
    device: torch.device,
    seed: int = 0,
    numbers: str = "normal",
    tables: Mapping[int, int] | None = None,
) -> tuple[Any, Any]:
    """The example's arguments with fresh float64 numbers where they were floating; see `Question` for which.

    `tables`: rows of the table that an argument (by its place in the flattened call) has ids of. Where all ids are the same,
    attention is uniform and hides errors, so others are drawn.
    """
    generator = torch.Generator().manual_seed(seed + 1)

    def fresh(place: int, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if not leaf.is_floating_point():
            rows = (tables or {}).get(place)
            if rows is not None and leaf.numel() > 1 and bool((leaf == leaf.reshape(-1)[0]).all()):
                leaf = torch.randint(rows, leaf.shape, generator=generator).to(leaf.dtype)
            return leaf.to(device)
        if numbers == "example" and leaf.dim():
            sample = torch.randint(len(leaf), leaf.shape, generator=generator)
            return leaf.detach().cpu().double().gather(0, sample).to(device)
        if numbers == "range" and (limits := _limits(leaf)) is not None:
            low, high = limits
            return (low + (high - low) * torch.rand(leaf.shape, generator=generator, dtype=torch.float64)).to(device)
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(device)

    leaves, spec = tree_flatten((arguments, keywords))
    made: tuple[Any, Any] = tree_unflatten([fresh(place, leaf) for place, leaf in enumerate(leaves)], spec)
    return made


def tables_read(graph: Graph) -> dict[int, int]:
    """Place in the flattened call -> rows of the smallest table that this input looks up."""
    places, found = {name: place for place, name in enumerate(graph.inputs)}, dict[int, int]()
    for node in graph.module.graph.nodes:
        if operation_name(node.target) != "embedding":
            continue
        source = node.args[1]
        while (
            source.op == "call_function" and operation_name(source.target) in MOVES and len(source.all_input_nodes) == 1
        ):
            source = source.all_input_nodes[0]
        if source.name in places:
            rows, place = int(node.args[0].meta["val"].shape[0]), places[source.name]
            found[place] = min(rows, found.get(place, rows))
    return found


def _limits(example: torch.Tensor) -> tuple[float, float] | None:
    """Between which numbers an example lies, those that are finite; around it where it is constant, as that would hide errors."""
    numbers = example.detach()[example.isfinite()].double()
    if not numbers.numel():
        return None
    low, high = float(numbers.min()), float(numbers.max())
    if low < high:
        return low, high
    return (0.5 * low, 1.5 * low) if low else (0.0, 1.0)
