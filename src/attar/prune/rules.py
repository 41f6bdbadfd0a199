"""What operations do to labels: norms, softmax, reductions, windows, embeddings, and those that attar has no rule for.

Contractions are in `contractions.py`, what makes values or puts them together in `making.py`, data movement in `movement.py`, and
element by element in `labels.py`. An operation without a rule fixes what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from attar.prune.call import Call
from attar.prune.families import ORDERED
from attar.prune.labels import Labels, Plane, Value, normalised, pointwise
from attar.prune.movement import move


def vector(labels: Labels, value: Value | None, dim: int, rank: int, kind: str) -> Value | None:
    """A bias or scale (C,) laid along `dim` of a result of `rank` dimensions."""
    if value is None:
        return None
    for plane in value.planes:
        if value.source:
            labels.role(value, plane, False, kind)
    extra = rank - 1 - dim
    planes = tuple(Plane(p.ids.reshape((1,) * dim + (-1,) + (1,) * extra), dim) for p in value.planes)
    return Value((1,) * dim + value.shape + (1,) * extra, planes, source=value.source)


def combined(labels: Labels, value: Value, others: Sequence[Value | None]) -> Value:
    return pointwise(labels, [value, *[other for other in others if other is not None]], value.shape, value.free)


def whole_places(labels: Labels, call: Call, value: Value, start: int, still: Sequence[int] = ()) -> Value:
    """Units cannot be cut along the dimensions that a kernel slides over, nor change along them.

    Args:
        start: the first of these dimensions.
        still: those, counted from there, along which it does not slide.
    """
    planes = []
    for plane in value.planes:
        if plane.cut - start in still:
            planes.append(plane)
            continue
        if plane.cut >= start:
            if call.name == "conv1d" and call.shape == value.shape and not plane.rows and not call.strict:
                # A kernel over neighbouring units (efficient channel attention): they mix, like in a norm.
                labels.mix(plane.ids, "a convolution over them")
                planes.append(plane)
                continue
            labels.fix(plane.ids, "a kernel slides over them")
            continue
        planes.append(Plane(labels.unite_along(plane.ids, range(start, len(value.shape))), plane.cut))
    return Value(value.shape, tuple(planes), value.free, value.source)


def unfolded(labels: Labels, call: Call) -> Value:
    """Windows as columns, (N, C, H, W) -> (N, C x window, windows): a channel has a run of rows."""
    value = call.args[0]
    if len(value.shape) != 4:
        return unknown(labels, call)
    value = whole_places(labels, call, value, 2)
    window = math.prod(call.args[1])
    planes = [Plane(p.ids[..., 0].repeat_interleave(window, 1), 1) for p in value.planes if p.cut == 1]
    return Value(call.shape, normalised(labels, planes), call.free)


def folded(labels: Labels, call: Call) -> Value:
    """The inverse of `unfolded`, where windows meet their sum."""
    value = call.args[0]
    if len(value.shape) != 3:
        return unknown(labels, call)
    value = whole_places(labels, call, value, 2)
    window, planes = math.prod(call.args[2]), []
    for plane in value.planes:
        if plane.cut == 1:
            ids = labels.unite_along(plane.ids.reshape(len(plane.ids), -1, window), (2,))
            planes.append(Plane(ids[..., None], 1))
    return Value(call.shape, normalised(labels, planes), call.free)


def spatial(labels: Labels, call: Call) -> Any:
    """Pooling and interpolation over the last dimensions."""
    value = call.args[0]
    start = next((d for d, (a, b) in enumerate(zip(value.shape, call.shape)) if a != b), len(call.shape) - 1)
    width = next((int(c) for c in reversed(call.name.replace("_with_indices", "")) if c.isdigit()), 2)
    value = whole_places(labels, call, value, min(start, len(value.shape) - width))
    results = [Value(shape, value.planes, free) for shape, free in zip(call.shapes, call.frees)]
    return results if len(results) > 1 else results[0]


def batch_norm(labels: Labels, call: Call) -> Any:
    """Each channel is normalised alone; along the others its places are mixed, if the figures are made here (a standardised
    weight is normalised over what it reads)."""
    value = call.args[0]
    if call.name == "batch_norm" and by_batch(call):
        value = _mixed(labels, call, value, range(2, len(value.shape)), "a norm over them")
    planes = [
        Plane(labels.unite_along(p.ids, range(2, len(value.shape))), 1) if p.cut == 1 else p for p in value.planes
    ]
    value = Value(value.shape, normalised(labels, planes), value.free, value.source)
    vectors = [vector(labels, v, 1, len(value.shape), "batch_norm") for v in call.args[1:5] if isinstance(v, Value)]
    result = combined(labels, value, vectors)
    return [result, *[Value(shape) for shape in call.shapes[1:]]] if len(call.shapes) > 1 else result


def by_batch(call: Call) -> bool:
    """Whether a batch norm uses the figures of what comes in."""
    return bool(call.args[5]) or call.args[3] is None


def layer_norm(labels: Labels, call: Call) -> Any:
    value, shape = call.args[0], call.args[1]
    start = len(value.shape) - len(shape)
    value = _mixed(labels, call, value, range(start, len(value.shape)), "a norm over them")
    scales = [v for v in (call.get(2, "weight"), call.get(3, "bias")) if isinstance(v, Value)]
    for scale in scales:
        for plane in scale.planes:
            labels.role(scale, plane, False, "norm")
    result = combined(labels, value, scales)
    return [result, *[Value(s) for s in call.shapes[1:]]] if len(call.shapes) > 1 else result


def group_norm(labels: Labels, call: Call) -> Any:
    value = call.args[0]
    groups = call.args[1] if call.name == "group_norm" else call.args[6]
    scales = call.args[2:4] if call.name == "group_norm" else call.args[1:3]
    value = whole_places(labels, call, value, 2)
    channels = value.shape[1]
    if channels > groups > 1:
        split = (value.shape[0], groups, channels // groups, *value.shape[2:])
        move(labels, value, lambda t: t.reshape(split), [split], [value.free])
    if channels > groups:
        value = _mixed(labels, call, value, range(1, 2), "a norm over them")
    vectors = [vector(labels, v, 1, len(value.shape), "norm") for v in scales if isinstance(v, Value)]
    result = combined(labels, value, vectors)
    return [result, *[Value(s) for s in call.shapes[1:]]] if len(call.shapes) > 1 else result


def instance_norm(labels: Labels, call: Call) -> Value:
    value = whole_places(labels, call, call.args[0], 2)
    vectors = [vector(labels, v, 1, len(value.shape), "norm") for v in call.args[1:5] if isinstance(v, Value)]
    return combined(labels, value, vectors)


def _mixed(labels: Labels, call: Call, value: Value, dims: Collection[int], what: str) -> Value:
    """An operation along `dims` makes each unit there depend on the others: allowed and noted, or fixed under the strict
    policy. Units that it finds in the same place of others' rows are one with them."""
    planes = []
    for plane in value.planes:
        if plane.cut not in dims:
            planes.append(Plane(labels.unite_along(plane.ids, dims), plane.cut))
            continue
        planes.append(plane)
        if call.strict:
            labels.fix(plane.ids, f"{what} (policy strict)")
        else:
            labels.mix(plane.ids, what)
    return Value(value.shape, normalised(labels, planes), value.free, value.source, value.known)


def softmax(labels: Labels, call: Call) -> Value:
    value = call.args[0]
    dim = call.get(1, "dim") % len(value.shape)
    value = _mixed(labels, call, value, (dim,), "a softmax over them")
    return Value(call.shape, value.planes, call.free)


def reduction(labels: Labels, call: Call) -> Any:
    value = call.args[0]
    rank = len(value.shape)
    dims = reduced(call)
    if not _additive(call):
        value = _mixed(labels, call, value, dims, f"{call.name} over them")
    keep = len(call.shapes[0]) == rank
    planes = []
    for plane in value.planes:
        if plane.cut in dims:
            continue
        ids = labels.unite_along(plane.ids, dims)
        cut = plane.cut
        if not keep:
            for dim in reversed(dims):
                ids = ids.select(dim, 0)
            cut -= sum(dim < plane.cut for dim in dims)
        planes.append(Plane(ids, cut))
    results = [Value(s, tuple(planes), f, value.source) for s, f in zip(call.shapes, call.frees)]
    return results if len(results) > 1 else results[0]


def reduced(call: Call) -> list[int]:
    """Dimensions that a reduction runs over, ascending."""
    rank, dims = len(call.args[0].shape), call.get(2 if call.name in ORDERED else 1, "dim")
    if isinstance(dims, bool) or dims is None or dims == []:
        return list(range(rank))
    return sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims))


def _additive(call: Call) -> bool:
    """Whether a removed unit, being zero, adds nothing to a reduction."""
    if call.name in ORDERED:
        order = call.get(1, "ord" if call.name == "linalg_vector_norm" else "p", 2)
        return order is None or order > 0
    return call.name in ("sum", "frobenius_norm")


def picked_places(labels: Labels, call: Call) -> None:
    """The places of a maximum or the like among units are numbers of units: these stay."""
    value = call.args[0]
    dims = call.get(1, "dim")
    dims = range(len(value.shape)) if dims is None else [dims % max(len(value.shape), 1)]
    for plane in value.planes:
        if plane.cut in dims:
            labels.fix(plane.ids, f"{call.name} gives places among them")


def places(labels: Labels, call: Call) -> Any:
    """Reductions to places."""
    picked_places(labels, call)
    return reduction(labels, call)


def embedding(labels: Labels, call: Call) -> Value:
    weight, index = call.args[:2]
    rank = len(call.shape)
    planes = []
    for plane in weight.planes:
        if plane.cut == 0:
            labels.fix(plane.ids, "is looked up by number")
        else:
            labels.role(weight, plane, True, "embedding")
            planes.append(Plane(plane.ids.reshape((1,) * (rank - 1) + (-1,)), rank - 1))
    return Value(call.shape, tuple(planes), call.free | index.free)


def along(labels: Labels, call: Call) -> Any:
    """Operations that depend on the order or number of elements along a dimension, element by element elsewhere."""
    value = call.args[0]
    place = 2 if call.name in ("topk", "kthvalue") else 1
    dim = call.get(place, "dim", -1)
    dim = (dim if isinstance(dim, int) and not isinstance(dim, bool) else -1) % max(len(value.shape), 1)
    planes = []
    for plane in value.planes:
        if plane.cut == dim:
            labels.fix(plane.ids, f"{call.name} runs along them")
        else:
            planes.append(Plane(labels.unite_along(plane.ids, (dim,)), plane.cut))
    results = [
        Value(s, tuple(planes) if len(s) == len(value.shape) else (), f) for s, f in zip(call.shapes, call.frees)
    ]
    if any(len(s) != len(value.shape) for s in call.shapes):
        for plane in planes:
            labels.fix(plane.ids, f"{call.name} drops a dimension")
    return results if len(results) > 1 else results[0]


def unknown(labels: Labels, call: Call) -> Any:
    """No rule: every unit that comes in stays."""
    call.ruled = False
    for value in call.values:
        for plane in value.planes:
            labels.fix(plane.ids, f"attar has no rule for {call.name}")
    results = [Value(shape, (), free) for shape, free in zip(call.shapes, call.frees)]
    return results if len(results) != 1 else results[0]
