"""One operation of a captured graph, as the rules are given it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attar.prune.labels import Labels, Shape, Value


@dataclass
class Call:
    """One operation of the graph with its arguments: tensors as values, sizes as numbers."""

    name: str
    """The operation without overload and in-place mark, e.g. `conv2d`."""
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: list[Shape]
    frees: list[frozenset[int]]
    strict: bool
    ruled: bool = True
    """Whether attar has a rule for it; without one, all units that go in stay."""

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def free(self) -> frozenset[int]:
        return self.frees[0]

    @cached_property
    def values(self) -> list[Value]:
        """All tensors among the arguments."""
        return [v for v in leaves((self.args, self.kwargs)) if isinstance(v, Value)]


Rule = Callable[[Labels, Call], Any]
"""What an operation does to labels: gives those of its result."""


def leaves(tree: Any) -> list[Any]:
    """What lists, tuples and mappings of an operation's arguments hold, in order."""
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in leaves(item)]
    if isinstance(tree, dict):
        return [leaf for item in tree.values() for leaf in leaves(item)]
    return [tree]
