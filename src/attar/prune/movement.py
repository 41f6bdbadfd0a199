"""Operations that only move data: the same operation is run on the labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from attar.prune.labels import Labels, Plane, Shape, Value, compressed, normalised


def move(
    labels: Labels,
    value: Value,
    operation: Callable[[torch.Tensor], Any],
    shapes: Sequence[Shape],
    frees: Sequence[frozenset[int]],
    prefer: int | None = None,
) -> list[Value]:
    """Labels after `operation`, one value for each of its results.

    Args:
        operation: the data movement, on any tensor of the value's shape; gives a tensor or a sequence of tensors.
        prefer: of the dimensions that a cut dimension is split into, the place of the one to cut from now on; the last if None.
    """
    planes: list[list[Plane]] = [[] for _ in shapes]
    for plane in value.planes:
        length = plane.ids.shape[plane.cut]
        line = torch.arange(length).view([-1 if dim == plane.cut else 1 for dim in range(len(value.shape))])
        plane = _in_order(labels, value, plane, operation)
        moved = _results(operation(plane.ids.expand(value.shape)))
        places = _results(operation(line.expand(value.shape)))
        for index, (ids, place) in enumerate(zip(moved, places)):
            place = compressed(place)
            along = [dim for dim, size in enumerate(place.shape) if size > 1]
            ids = compressed(ids)
            if not along:
                if ids.numel():
                    labels.fix(ids, "is picked out alone")
                continue
            changing = [dim for dim in along if ids.shape[dim] > 1] or along
            cut = changing[-1] if prefer is None or prefer >= len(along) else along[prefer]
            ids = ids.expand([shapes[index][dim] if dim == cut else size for dim, size in enumerate(ids.shape)])
            result = Plane(ids, cut)
            labels.balance(result)
            planes[index].append(result)
    known = [None] * len(shapes) if value.known is None else _results(operation(value.known))
    return [
        Value(shape, normalised(labels, found), free, value.source, real)
        for shape, free, found, real in zip(shapes, frees, planes, known)
    ]


def _in_order(labels: Labels, value: Value, plane: Plane, operation: Callable[[torch.Tensor], Any]) -> Plane:
    """The plane, its rows made one unit where the operation weaves them into one another (heads put behind features).

    A row that loses other units than its neighbour would then shift the neighbour's places.
    """
    if not plane.rows:
        return plane
    sizes = [plane.ids.shape[dim] if dim in plane.rows else 1 for dim in range(plane.ids.dim())]
    number = torch.arange(math.prod(sizes)).view(sizes)
    for rows in _results(operation(number.expand(value.shape))):
        rows = compressed(rows)
        for dim, size in enumerate(rows.shape):
            line = rows.movedim(dim, -1).reshape(-1, size)[0] if size > 1 else rows.reshape(-1)[:1]
            if int((line[1:] != line[:-1]).sum()) >= len(line.unique()) > 1:
                return Plane(labels.unite_along(plane.ids, plane.rows), plane.cut)
    return plane


def balance_parts(labels: Labels, parts: Sequence[Value], dim: int) -> None:
    """Parts of equal size that the code makes by counting (`chunk(2)`) keep the same number of units."""
    lines = []
    for part in parts:
        plane = part.plane(dim % len(part.shape))
        if plane is None or plane.rows:
            return
        lines.append(plane.ids.reshape(-1))
    if len({len(line) for line in lines}) == 1 and len(lines) > 1:
        labels.rows.append(torch.stack(lines))


def _results(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else list(found)
