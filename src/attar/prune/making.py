"""Rules for operations that put values together or make new ones: cat, stack, pad, expand, index, constants."""

from __future__ import annotations

import math
from typing import Any

import torch

from attar.prune.call import Call
from attar.prune.labels import Labels, Plane, Value, aligned, normalised
from attar.prune.movement import move
from attar.prune.rules import unknown


def fresh_planes(labels: Labels, shape: tuple[int, ...], free: frozenset[int]) -> tuple[Plane, ...]:
    """A plane of new labels for every dimension: a constant's elements go with whatever they meet."""
    planes = []
    for dim, size in enumerate(shape):
        if size > 1 and dim not in free:
            planes.append(Plane(labels.fresh(size).view([-1 if d == dim else 1 for d in range(len(shape))]), dim))
    return tuple(planes)


def maker(labels: Labels, call: Call) -> Value:
    if call.name == "eye" and call.shape[0] == call.shape[1] > 1:  # a row without its column were no identity
        ids = labels.fresh(call.shape[0])
        return Value(call.shape, (Plane(ids.view(-1, 1), 0), Plane(ids.view(1, -1), 1)), call.free)
    return Value(call.shape, fresh_planes(labels, call.shape, call.free), call.free)


def like(labels: Labels, call: Call) -> Value:
    return Value(call.shape, call.args[0].planes, call.free)


def expand(labels: Labels, call: Call) -> Value:
    """Dimensions of size one that are spread are constant along them: new labels."""
    value = call.args[0]
    rank = len(call.shape)
    planes = [aligned(plane, rank) for plane in value.planes]
    sizes = (1,) * (rank - len(value.shape)) + value.shape
    spread = tuple(
        n if old == 1 and n > 1 and d not in call.free else 1 for d, (old, n) in enumerate(zip(sizes, call.shape))
    )
    for plane in fresh_planes(labels, spread, call.free):
        planes.append(plane)
    known = None if value.known is None else value.known.expand(call.shape)
    return Value(call.shape, normalised(labels, planes), call.free, value.source, known)


def repeat(labels: Labels, call: Call) -> Value:
    value = call.args[0]
    times = call.get(1, "repeats")
    moved = move(labels, value, lambda t: t.repeat(times), [call.shape], [call.free])[0]
    sizes = (1,) * (len(times) - len(value.shape)) + value.shape
    spread = tuple(n if old == 1 and d not in call.free else 1 for d, (old, n) in enumerate(zip(sizes, call.shape)))
    planes = [*moved.planes, *fresh_planes(labels, spread, call.free)]
    return Value(call.shape, normalised(labels, planes), call.free, value.source, moved.known)


def cat(labels: Labels, call: Call) -> Value:
    values = [value for value in call.args[0] if value.shape != (0,)]
    rank = len(call.shape)
    dim = call.get(1, "dim", 0) % rank
    planes = []
    if any(value.plane(dim) for value in values):
        planes.append(_joined(labels, values, dim))
    for value in values:
        for plane in value.planes:
            if plane.cut == dim:
                continue
            for other in values:
                if other.plane(plane.cut) is None and other.shape[plane.cut] > 1:
                    labels.fix(plane.ids, "stands beside a value whose size is fixed")
            planes.append(Plane(labels.unite_along(plane.ids, (dim,)), plane.cut))
    sources = [value.source for value in values]
    source = frozenset().union(*sources) if all(sources) else frozenset()
    known = None
    if all(value.known is not None for value in values):
        known = torch.cat([value.known for value in values], dim)  # type: ignore[misc]
    return Value(call.shape, normalised(labels, planes), call.free, source, known)


def _joined(labels: Labels, values: list[Value], dim: int) -> Plane:
    """The plane along the dimension that values are joined on; parts without labels stay."""
    parts = []
    for value in values:
        plane = value.plane(dim)
        if plane is None:
            ids = labels.fresh(value.shape[dim])
            labels.fix(ids, "is joined with units, and is not one")
            ids = ids.view([-1 if d == dim else 1 for d in range(len(value.shape))])
        else:
            ids = plane.ids
        parts.append(ids)
    rank = parts[0].dim()
    full = [max(part.shape[d] for part in parts) for d in range(rank)]
    parts = [part.expand([part.shape[d] if d == dim else full[d] for d in range(rank)]) for part in parts]
    result = Plane(torch.cat(parts, dim), dim)
    labels.balance(result)
    return result


def stack(labels: Labels, call: Call) -> Value:
    """Like `cat` along a new dimension; units at the same place in different parts are rows of one another."""
    values = list(call.args[0])
    rank = len(call.shape)
    dim = call.get(1, "dim", 0) % rank
    planes = []
    for cut in sorted({plane.cut for value in values for plane in value.planes}):
        parts = []
        for value in values:
            plane = value.plane(cut)
            if plane is None:
                ids = labels.fresh(value.shape[cut])
                labels.fix(ids, "is stacked beside units, and is not one")
                plane = Plane(ids.view([-1 if d == cut else 1 for d in range(rank - 1)]), cut)
            parts.append(plane.ids.unsqueeze(dim))
        full = [max(part.shape[d] for part in parts) for d in range(rank)]
        full[dim] = 1
        joined = torch.cat([part.expand(full) for part in parts], dim)
        plane = Plane(joined, cut + (cut >= dim))
        labels.balance(plane)
        planes.append(plane)
    return Value(call.shape, normalised(labels, planes), call.free)


def pad(labels: Labels, call: Call) -> Value:
    """Constant padding: what is added along units is new units, which weights need not produce."""
    value = call.args[0]
    widths, rank = list(call.args[1]), len(value.shape)
    if call.name == "pad" and call.get(2, "mode", "constant") != "constant":
        return _reflected(labels, call, value, len(widths) // 2)
    planes = []
    for plane in value.planes:
        ids = plane.ids
        for number in range(len(widths) // 2):
            dim, before, after = rank - 1 - number, widths[2 * number], widths[2 * number + 1]
            if not before and not after:
                continue
            if dim != plane.cut:
                ids = labels.unite_along(ids, (dim,))
            elif before < 0 or after < 0:
                ids = ids.narrow(dim, max(-before, 0), ids.shape[dim] + min(before, 0) + min(after, 0))
            else:
                ids = _extended(labels, ids, dim, before, after)
        planes.append(Plane(ids, plane.cut))
    return Value(call.shape, normalised(labels, planes), call.free)


def _extended(labels: Labels, ids: torch.Tensor, dim: int, before: int, after: int) -> torch.Tensor:
    parts = []
    for number, part in ((before, None), (0, ids), (after, None)):
        if part is None and number:
            shape = [number if d == dim else n for d, n in enumerate(ids.shape)]
            part = labels.fresh(math.prod(shape)).view(shape)
        if part is not None:
            parts.append(part)
    return torch.cat(parts, dim)


def _reflected(labels: Labels, call: Call, value: Value, dims: int) -> Value:
    start = len(value.shape) - dims
    planes = []
    for plane in value.planes:
        if plane.cut >= start:
            labels.fix(plane.ids, "is padded with itself")
        else:
            planes.append(Plane(labels.unite_along(plane.ids, range(start, len(value.shape))), plane.cut))
    return Value(call.shape, tuple(planes), call.free)


def index(labels: Labels, call: Call) -> Any:
    """Picking by a list of numbers: a movement where the numbers are known, otherwise what is picked along is fixed."""
    value, rest = call.args[0], call.args[1:]
    if call.name == "index":
        numbers = list(rest[0])
        if all(n is None or n.known is not None for n in numbers):
            picks = [None if n is None else n.known for n in numbers]
            return move(labels, value, lambda t: torch.ops.aten.index.Tensor(t, picks), [call.shape], [call.free])[0]
        return unknown(labels, call)
    dim, numbers = rest[0], rest[1]
    if call.name == "index_select" and numbers.known is not None:
        return move(labels, value, lambda t: t.index_select(dim, numbers.known), [call.shape], [call.free])[0]
    return unknown(labels, call)
