"""Which attribute a size comes from: the network's code is run once more with whole numbers that know where they are from.

Where two attributes held the same number before a cut and stand for different ones after it (widths of keys and of values, a
width and the longest sequence), the captured graph alone cannot tell which of its sizes was read from which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from attar.prune import trace
from attar.prune.attributes import Origin
from attar.prune.families import SIZED, SLICES
from attar.prune.nodes import operation_name
from attar.prune.propagate import Walk
from attar.prune.rewrite import Rewriter
from attar.prune.surgery import Attributes

Found = dict[Origin, int]


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


@dataclass(frozen=True)
class Uses:
    """What became of attributes in the operations of a network's code."""

    sizes: list[Use]
    others: list[tuple[frozenset[Origin], list[torch.fx.Node]]]
    """Attributes that operations were given in a place which cannot be told."""


class _Watch(TorchFunctionMode):
    """Notes the functions that tracked numbers are given to, and which operations each became."""

    def __init__(self, seen: trace.Trace) -> None:
        super().__init__()
        self.seen = seen
        self.calls: list[tuple[list[Any], int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = len(self.seen.steps)
        found = func(*args, **(kwargs or {}))
        leaves = [part for leaf in tree_leaves((args, kwargs or {})) for part in _bounds(leaf)]
        numbers = [leaf for leaf in leaves if type(leaf) in (int, Tracked)]
        if any(type(number) is Tracked for number in numbers):
            self.calls.append((numbers, start, len(self.seen.steps)))
        return found


def size_uses(model: nn.Module, attributes: Attributes, walk: Walk, call: tuple[Any, Any]) -> Uses | None:
    """Every use of an attribute as a size; None where the code does not do twice the same.

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
        return None
    found = Uses([], [])
    for numbers, start, end in watched[0].calls:
        told = [*_aligned_bounds(numbers, nodes[start:end])]
        told += [use for node in nodes[start:end] for use in _aligned(numbers, node)]
        rest = [n.origins for n in numbers if type(n) is Tracked and all(use.number is not n for use in told)]
        found.sizes.extend(told)
        if rest:
            found.others.append((frozenset().union(*rest), nodes[start:end]))
    return found


def _bounds(leaf: Any) -> list[Any]:
    return [leaf.start, leaf.stop] if isinstance(leaf, slice) else [leaf]


def _tracked(value: Any, path: str, name: str) -> Any:
    if isinstance(value, tuple | list):
        parts = [Tracked.attribute(n, (path, name, i)) if type(n) is int else n for i, n in enumerate(value)]
        return type(value)(parts)
    return Tracked.attribute(value, (path, name, -1)) if type(value) is int else value


def _sizes(node: torch.fx.Node) -> list[Any]:
    name = operation_name(node.target)
    if name in SLICES:
        return list(node.args[2:4])
    place = 2 if name == "unflatten" else 1
    sizes = node.args[place] if len(node.args) > place and name in SIZED else []
    return list(sizes) if isinstance(sizes, list | tuple) else [sizes]


def _aligned_bounds(numbers: list[Any], nodes: list[torch.fx.Node]) -> Iterator[Use]:
    """The numbers that slices were given, in their order."""
    left = [number for number in numbers if type(number) is Tracked]
    for node in nodes:
        for place, bound in enumerate(_sizes(node) if operation_name(node.target) in SLICES else []):
            number = next((n for n in left if type(bound) is int and n == bound), None)
            if number is not None:
                left.remove(number)
                yield Use(node, place, number)


def _aligned(numbers: list[Any], node: torch.fx.Node) -> list[Use]:
    """The function's numbers laid beside the operation's sizes; a size that follows the batch fits anything."""
    sizes = [] if operation_name(node.target) in SLICES else _sizes(node)
    for start in range(len(numbers) - len(sizes) + 1 if sizes else 0):
        pairs = list(zip(sizes, numbers[start:]))
        if all(isinstance(size, torch.fx.Node) or size == number or number == -1 for size, number in pairs):
            return [Use(node, place, n) for place, (_, n) in enumerate(pairs) if type(n) is Tracked]
    return []


def mended_by_use(uses: Uses, walk: Walk, left: torch.Tensor) -> tuple[Found, set[Origin]]:
    """What attributes must be for every size that is computed from them to be the one that the labels left say.

    Beside it those of which this cannot be told though something that was given them changed; all others changed nothing.
    """
    wanted: list[tuple[Tracked, int]] = []
    asked = [*(use.node for use in uses.sizes), *(node for _, nodes in uses.others for node in nodes)]
    anew = dict(Rewriter(walk, left).alone(dict.fromkeys(asked)))
    unknown = {o for origins, nodes in uses.others for o in origins if any(_changed(n, anew[n]) for n in nodes)}
    for use in uses.sizes:
        old, new = _sizes(use.node), _sizes_anew(use.node, anew[use.node])
        if len(new) == 1 < len(old):
            new = new * len(old)  # a split into equal parts
        if len(new) == len(old) and type(new[use.place]) is int and new[use.place] > 0:
            wanted.append((use.number, new[use.place]))
        elif _changed(use.node, anew[use.node]):
            unknown |= use.number.origins
    found: Found = {}
    for number, size in sorted(wanted, key=lambda item: len(item[0].origins)):
        open_ = [origin for origin in number.origins if origin not in found]
        if number.again(found) == size and len(open_) != 1:
            continue
        fitting = []
        if len(open_) == 1:
            whole = int(number.again({})) if len(number.origins) > 1 else int(number)
            fitting = [n for n in range(1, max(whole, size) + 1) if number.again({**found, open_[0]: n}) == size]
        if len(fitting) == 1:
            found[open_[0]] = fitting[0]
        else:
            unknown |= set(open_)
    return found, unknown


def _sizes_anew(old: torch.fx.Node, new: torch.fx.Node) -> list[Any]:
    """The sizes of an operation written anew; a narrow that became a slice tells its length all the same."""
    sizes = _sizes(new)
    if operation_name(old.target) == "narrow" and operation_name(new.target) == "slice":
        return [sizes[0], sizes[1] - sizes[0]]
    return sizes


def _changed(old: torch.fx.Node, new: torch.fx.Node) -> bool:
    def numbers(node: torch.fx.Node) -> list[int]:
        return [leaf for leaf in tree_leaves([list(node.args), dict(node.kwargs)]) if type(leaf) is int]

    return old.target is not new.target or numbers(old) != numbers(new)
