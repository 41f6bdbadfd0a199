"""The captured graph of a cut network: the original's, with every size in it written anew from the labels that are left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch

from attar.prune.call import Call
from attar.prune.contractions import groups_of, groups_place, is_transposed
from attar.prune.families import ALL_CONVOLUTIONS, EQUAL_PARTS, LAYER_NORMS, MAKERS, MOVES, PADS, SLICES
from attar.prune.labels import Plane, Value
from attar.prune.nodes import place
from attar.prune.propagate import Walk

aten = torch.ops.aten


class RewriteError(ValueError):
    """An operation's sizes cannot be written anew; the message names it."""


class Rewriter:
    """New arguments for the operations of one graph, given the labels that are left (bool, by label)."""

    def __init__(self, walk: Walk, left: torch.Tensor) -> None:
        self.walk, self.left = walk, left

    def graph(self) -> torch.fx.Graph:
        """A new graph with the same names; parameters are still its placeholders."""
        old, new = self.walk.graph.module.graph, torch.fx.Graph()
        places: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in old.nodes:
            copy = new.node_copy(node, lambda n: places[n])
            if copy.target is aten.view.default:
                # other kernels, on other machines, lay their results otherwise in memory
                copy.target = aten.reshape.default
            call = self.walk.calls.get(node)
            if call is not None and self._touched(node, call):
                try:
                    self._rewrite(node, copy, call)
                except RewriteError as problem:
                    raise RewriteError(f"{problem} ({place(node)})") from None
            places[node] = copy
        return new

    def alone(self, nodes: Iterable[torch.fx.Node]) -> Iterator[tuple[torch.fx.Node, torch.fx.Node]]:
        """These operations and how they are written anew, without the graph around them: for what their numbers become."""
        graph = torch.fx.Graph()
        operand = graph.placeholder("operand")
        for node in nodes:
            call, copy = self.walk.calls.get(node), node
            if call is not None and self._touched(node, call):
                copy = graph.node_copy(node, lambda _: operand)
                self._rewrite(node, copy, call)
            yield node, copy

    def length(self, value: Value, dim: int) -> int:
        """Elements left along a dimension."""
        plane = value.plane(dim)
        return value.shape[dim] if plane is None else self.count(plane)

    def lost(self, value: Value, dim: int) -> bool:
        """Whether a dimension lost elements."""
        plane = value.plane(dim)
        return plane is not None and not bool(self.left[plane.ids].all())

    def count(self, plane: Plane) -> int:
        counts = self.left[plane.row_matrix()].sum(1)
        if bool((counts != counts[0]).any()):
            raise RewriteError("rows keep different numbers of units")
        return int(counts[0])

    def between(self, plane: Plane, start: int, end: int) -> int:
        """Elements left from start to end along the plane, the same in all its rows."""
        counts = self.left[plane.row_matrix()[:, start:end]].sum(1)
        if bool((counts != counts[0]).any()):
            raise RewriteError("rows keep different numbers of units in a part")
        return int(counts[0])

    def line(self, plane: Plane) -> torch.Tensor:
        """bool (length,): what is left along the plane, which must have no rows."""
        mask = self.left[plane.row_matrix()]
        if bool((mask != mask[0]).any()):
            raise RewriteError("rows keep different units")
        return mask[0]

    def _touched(self, node: torch.fx.Node, call: Call) -> bool:
        """Whether anything that goes in or comes out of the operation lost elements."""
        out = self.walk.values[node]
        values = [*call.values, *(out if isinstance(out, list) else [out])]
        return any(not bool(self.left[p.ids].all()) for v in values if isinstance(v, Value) for p in v.planes)

    def _sizes(self, value: Value, sizes: list[Any], viewed: bool = True) -> list[Any]:
        """Size arguments of an operation that makes `value`: numbers anew, free sizes as they are.

        A free size that units were merged into (batch x channels) cannot be a number: it becomes -1, found from the others.

        Args:
            viewed: whether -1 is the size that is found from the others, and not one that stays.
        """
        extra = len(value.shape) - len(sizes)
        found: list[Any] = []
        for dim, size in enumerate(sizes):
            plane = value.plane(dim + extra)
            lost = plane is not None and not bool(self.left[plane.ids].all())
            if isinstance(size, torch.fx.Node):
                found.append(-1 if lost else size)
            else:
                found.append(self.length(value, dim + extra) if lost else size)
        if viewed and found.count(-1) > 1:
            place = next(d for d, size in enumerate(sizes) if isinstance(size, int) and size == -1)
            found[place] = self.length(value, place + extra)
        return found

    def _rewrite(self, node: torch.fx.Node, copy: torch.fx.Node, call: Call) -> None:
        out = self.walk.values[node]
        args: list[Any] = list(copy.args)
        name = call.name
        if name in ("view", "_unsafe_view", "reshape", "expand", "repeat"):
            self._resized(node, copy, call, out)
            return
        if name == "eye":
            copy.target, copy.args = aten.eye.m, (self.length(out, 0), self.length(out, 1))
        elif name in MAKERS:
            place = 1 if name.startswith("new_") else 0
            args[place] = self._sizes(out, list(args[place]))
            copy.args = tuple(args)
        elif name == "unflatten":
            start = args[1] % len(call.args[0].shape)
            args[2] = [
                self.length(out, start + number) if isinstance(size, int) and size != -1 else size
                for number, size in enumerate(args[2])
            ]
            copy.args = tuple(args)
        elif name in ALL_CONVOLUTIONS:
            self._convolution(copy, call)
        elif name in LAYER_NORMS:
            start = len(out.shape) - len(args[1])
            args[1] = [self.length(out, start + number) for number in range(len(args[1]))]
            copy.args = tuple(args)
        elif name == "group_norm":
            if call.args[0].shape[1] == call.args[1]:
                args[1] = self.length(call.args[0], 1)
            copy.args = tuple(args)
        elif name == "scaled_dot_product_attention":
            if call.kwargs.get("scale") is None:
                copy.kwargs = {**copy.kwargs, "scale": 1 / math.sqrt(call.args[0].shape[-1])}
        elif name in PADS:
            self._pad(node, copy, call)
        elif name in MOVES:
            self._moved(copy, call, out)
        elif name == "index":
            self._index(copy, call)
        elif name == "index_select":
            dim = call.args[1] % len(call.args[0].shape)
            if self.lost(call.args[0], dim):
                self._reordered(copy, call.args[0], dim, call.args[2].known)

    def _resized(self, node: torch.fx.Node, copy: torch.fx.Node, call: Call, out: Value) -> None:
        args: list[Any] = list(copy.args)
        if call.name == "repeat":
            value = call.args[0]
            extra = len(out.shape) - len(value.shape)
            old = [1] * extra + [self.length(value, d) for d in range(len(value.shape))]
            args[1] = [
                self.length(out, d) // old[d] if isinstance(times, int) and out.plane(d) else times
                for d, times in enumerate(args[1])
            ]
        else:
            args[1] = self._sizes(out, list(args[1]), viewed=call.name != "expand")
        copy.args = tuple(args)

    def _convolution(self, copy: torch.fx.Node, call: Call) -> None:
        groups, place = groups_of(call), groups_place(call)
        if groups == 1:
            return
        value, weight = call.args[:2]
        channels = self.length(value, len(value.shape) - len(weight.shape) + 1)
        if not is_transposed(call):
            groups = channels // self.length(weight, 1)
        elif weight.shape[0] == groups:
            groups = channels
        if len(copy.args) > place:
            copy.args = (*copy.args[:place], groups, *copy.args[place + 1 :])
        else:
            copy.kwargs = {**copy.kwargs, "groups": groups}

    def _pad(self, node: torch.fx.Node, copy: torch.fx.Node, call: Call) -> None:
        value, widths = call.args[0], list(cast("Any", copy.args[1]))
        rank = len(value.shape)
        out = self.walk.values[node]
        for number in range(len(widths) // 2):
            dim = rank - 1 - number
            plane = out.plane(dim)
            if plane is None or not isinstance(widths[2 * number], int) or not isinstance(widths[2 * number + 1], int):
                continue
            before, after = widths[2 * number], widths[2 * number + 1]
            if not before and not after:
                continue
            if before < 0 or after < 0:
                old, length = value.plane(dim), value.shape[dim]
                assert old is not None
                widths[2 * number] = -self.between(old, 0, max(-before, 0))
                widths[2 * number + 1] = -self.between(old, length - max(-after, 0), length)
            else:
                length = out.shape[dim]
                widths[2 * number] = self.between(plane, 0, before)
                widths[2 * number + 1] = self.between(plane, length - after, length)
        copy.args = (copy.args[0], widths, *copy.args[2:])

    def _moved(self, copy: torch.fx.Node, call: Call, out: Any) -> None:
        value, name = call.args[0], call.name
        rank = len(value.shape)
        if name in EQUAL_PARTS:
            dim = call.get(2, "dim", 0) % rank
            if any(self.lost(part, dim) for part in out):
                sizes = [self.length(part, dim) for part in out]
                equal = len(set(sizes)) == 1
                copy.target = aten.split.Tensor if equal else aten.split_with_sizes.default
                copy.args, copy.kwargs = (copy.args[0], sizes[0] if equal else sizes, dim), {}
        elif name in SLICES:
            if self.lost(value, call.get(1, "dim", 0) % rank):
                self._picked(copy, call, value, call.get(1, "dim", 0) % rank)
        elif name == "roll":
            cut = [d % rank for d in call.get(2, "dims", []) if self.lost(value, d % rank)]
            if cut and len(call.get(2, "dims", [])) > 1:
                raise RewriteError("roll along units and other dimensions at once")
            if cut:
                self._picked(copy, call, value, cut[0])
        elif name == "repeat_interleave" and len(call.args) > 2 and self.lost(value, call.args[2] % rank):
            self._ordered(call, value)
        elif name == "unfold" and self.lost(value, call.args[1] % rank):
            raise RewriteError(f"{name} along units")
        self._check(call, value, out)

    def _picked(self, copy: torch.fx.Node, call: Call, value: Value, dim: int) -> None:
        """Slices and rolls of a dimension that lost elements."""
        shape = [-1 if d == dim else 1 for d in range(len(value.shape))]
        order = torch.arange(value.shape[dim]).view(shape)
        self._reordered(copy, value, dim, call.target(order, *call.args[1:], **call.kwargs).reshape(-1))

    def _reordered(self, copy: torch.fx.Node, value: Value, dim: int, moved: torch.Tensor) -> None:
        """Elements picked from a dimension that lost some, `moved` their places as captured: the runs of what stays, joined."""
        line = self.line(value.plane(dim))  # type: ignore[arg-type]
        number = torch.cumsum(line, 0) - 1
        index = number[moved[line[moved]]]
        source = copy.args[0]
        start = int(index[0]) if len(index) else 0
        if torch.equal(index, torch.arange(start, start + len(index))):
            copy.target = aten.slice.Tensor
            copy.args, copy.kwargs = (source, dim, start, start + len(index)), {}
            return
        with copy.graph.inserting_before(copy):
            parts = [
                copy.graph.call_function(aten.slice.Tensor, (source, dim, start, end))
                for start, end in _runs(index.tolist())
            ]
        copy.target = aten.cat.default
        copy.args, copy.kwargs = (parts, dim), {}

    def _ordered(self, call: Call, value: Value) -> None:
        if isinstance(call.args[1], Value):
            raise RewriteError(f"{call.name} with a list of repeats along units")

    def _index(self, copy: torch.fx.Node, call: Call) -> None:
        value, picks = call.args[0], {dim: item for dim, item in enumerate(call.args[1]) if item is not None}
        for dim, picked in picks.items():
            if self.lost(value, dim):
                if (
                    len(picks) > 1
                    or picked.known is None
                    or picked.known.dim() != 1
                    or picked.known.dtype == torch.bool
                ):
                    raise RewriteError("index along units")
                self._reordered(copy, value, dim, picked.known % value.shape[dim])

    def _check(self, call: Call, value: Value, out: Any) -> None:
        """Every result has rows of one length; `count` raises where they do not."""
        for part in out if isinstance(out, list) else [out]:
            for plane in part.planes:
                self.count(plane)


def _runs(index: list[int]) -> list[tuple[int, int]]:
    """A list of numbers as runs of consecutive ones, (start, end) each."""
    runs: list[tuple[int, int]] = []
    for number in index:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
