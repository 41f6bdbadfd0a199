"""Which attribute a size comes from: the network's code is run once more with whole numbers that know where they are from.

Where two attributes held the same number before a cut and stand for different ones after it (widths of keys and of values), the
captured graph alone cannot tell which of its sizes was read from which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from attar.prune import trace
from attar.prune.propagate import Walk, operation_name
from attar.prune.rewrite import Rewriter
from attar.prune.surgery import Attributes

Origin = tuple[str, str, int]
"""(module path, attribute, place in it; -1 where it is a number itself)."""
Found = dict[Origin, int]
SIZED = frozenset({"view", "_unsafe_view", "reshape", "expand", "split", "split_with_sizes", "unflatten"})


class Tracked(int):
    """A whole number that knows the attributes it was computed from, and how."""

    origins: frozenset[Origin]
    again: Callable[[Found], int]
    """The number, were the attributes others."""

    @staticmethod
    def of(value: int, origins: frozenset[Origin], again: Callable[[Found], int]) -> Tracked:
        number = Tracked(value)
        number.origins, number.again = origins, again
        return number

    @staticmethod
    def attribute(value: int, origin: Origin) -> Tracked:
        return Tracked.of(value, frozenset({origin}), lambda found: found.get(origin, value))


def _computed(first: Any, second: Any, operation: Callable[[int, int], int]) -> Any:
    if type(first) not in (int, Tracked) or type(second) not in (int, Tracked):
        return operation(*(int(n) if type(n) is Tracked else n for n in (first, second)))

    def again(found: Found) -> int:
        return operation(*(n.again(found) if isinstance(n, Tracked) else n for n in (first, second)))

    origins = frozenset().union(*(n.origins for n in (first, second) if isinstance(n, Tracked)))
    return Tracked.of(operation(int(first), int(second)), origins, again)


for _name in ("add", "sub", "mul", "floordiv"):
    _operation = getattr(operator, _name)
    setattr(Tracked, f"__{_name}__", lambda self, other, operation=_operation: _computed(self, other, operation))
    setattr(Tracked, f"__r{_name}__", lambda self, other, operation=_operation: _computed(other, self, operation))


@dataclass(frozen=True)
class Use:
    """One size of an operation that was computed from attributes."""

    node: torch.fx.Node
    place: int
    number: Tracked


class _Watch(TorchFunctionMode):
    """Notes the functions that tracked numbers are given to, and which operations each became."""

    def __init__(self, seen: trace.Trace) -> None:
        super().__init__()
        self.seen = seen
        self.calls: list[tuple[list[Any], int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = len(self.seen.steps)
        found = func(*args, **(kwargs or {}))
        numbers = [leaf for leaf in tree_leaves((args, kwargs or {})) if type(leaf) in (int, Tracked)]
        if any(type(number) is Tracked for number in numbers):
            self.calls.append((numbers, start, len(self.seen.steps)))
        return found


def size_uses(model: nn.Module, attributes: Attributes, walk: Walk, call: tuple[Any, Any]) -> list[Use]:
    """Every use of an attribute as a size that can be told.

    Args:
        model: in the shapes as captured; its attributes are overwritten.
        attributes: those that may have to be mended.
        walk: of a quick trace of the network in eval mode.
        call: the example's arguments and keywords.
    """
    for path, values in attributes.items():
        for name, value in values.items():
            setattr(model.get_submodule(path), name, _tracked(value, path, name))
    watched: list[_Watch] = []

    def watch(seen: trace.Trace) -> _Watch:
        watched.append(_Watch(seen))
        return watched[0]

    seen = trace.run(model, *call, watch=watch)
    nodes = list(walk.calls)
    if [step.function for step in seen.steps] != [node.target for node in nodes]:
        return []
    return [
        use for numbers, start, end in watched[0].calls for node in nodes[start:end] for use in _aligned(numbers, node)
    ]


def _tracked(value: Any, path: str, name: str) -> Any:
    if isinstance(value, tuple | list):
        parts = [Tracked.attribute(n, (path, name, i)) if type(n) is int else n for i, n in enumerate(value)]
        return type(value)(parts)
    return Tracked.attribute(value, (path, name, -1)) if type(value) is int else value


def _sizes(node: torch.fx.Node) -> list[Any]:
    sizes = node.args[1] if len(node.args) > 1 and operation_name(node.target) in SIZED else []
    return list(sizes) if isinstance(sizes, list | tuple) else [sizes]


def _aligned(numbers: list[Any], node: torch.fx.Node) -> list[Use]:
    """The function's numbers laid beside the operation's sizes; a size that follows the batch fits anything."""
    sizes = _sizes(node)
    for start in range(len(numbers) - len(sizes) + 1 if sizes else 0):
        pairs = list(zip(sizes, numbers[start:]))
        if all(isinstance(size, torch.fx.Node) or size == number or number == -1 for size, number in pairs):
            return [Use(node, place, n) for place, (_, n) in enumerate(pairs) if type(n) is Tracked]
    return []


def mended_by_use(uses: list[Use], walk: Walk, left: torch.Tensor) -> Found:
    """What attributes must be for every size that is computed from them to be the one that the labels left say."""
    wanted: list[tuple[Tracked, int]] = []
    anew = dict(Rewriter(walk, left).alone(dict.fromkeys(use.node for use in uses)))
    for use in uses:
        old, new = _sizes(use.node), _sizes(anew[use.node])
        if len(new) == 1 < len(old):
            new = new * len(old)  # a split into equal parts
        if len(new) == len(old) and type(new[use.place]) is int and new[use.place] > 0:
            wanted.append((use.number, new[use.place]))
    found: Found = {}
    for number, size in sorted(wanted, key=lambda item: len(item[0].origins)):
        open_ = [origin for origin in number.origins if origin not in found]
        if number.again(found) == size and len(open_) != 1:
            continue
        if len(open_) == 1:
            whole = int(number.again({})) if len(number.origins) > 1 else int(number)
            fitting = [n for n in range(1, max(whole, size) + 1) if number.again({**found, open_[0]: n}) == size]
            if len(fitting) == 1:
                found[open_[0]] = fitting[0]
    return found
