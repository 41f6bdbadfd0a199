"""What contractions do to labels: linear layers, matrix products, einsum, convolutions, attention."""

from __future__ import annotations

from typing import Any

from attar.prune.call import Call
from attar.prune.families import ADDED_PRODUCTS, CONVOLUTIONS, PRODUCTS, TRANSPOSED
from attar.prune.labels import Labels, Plane, Value, contract, pointwise
from attar.prune.movement import move
from attar.prune.rules import combined, unknown, vector, whole_places


def linear(labels: Labels, call: Call) -> Value:
    value, weight = call.args[:2]
    bias = call.get(2, "bias")
    lead = "abcdefgh"[: len(value.shape) - 1]
    out = "o" if len(weight.shape) == 2 else ""
    result = contract(labels, [(value, lead + "i"), (weight, out + "i")], lead + out, call.shape, call.free, "linear")
    return combined(labels, result, [vector(labels, bias, len(result.shape) - 1, len(result.shape), "linear")])


def matmul(labels: Labels, call: Call) -> Value:
    first, second = call.args[-2:] if call.name in PRODUCTS else call.args[1:3]
    depth = max(len(first.shape), len(second.shape)) - 2
    lead = "abcdefgh"[: max(depth, 0)]

    def names(value: Value, own: str) -> str:
        rank = len(value.shape)
        return "k" if rank == 1 else lead[len(lead) - (rank - 2) :] + own

    left, right = names(first, "mk"), names(second, "kn")
    out = lead + ("m" if len(first.shape) > 1 else "") + ("n" if len(second.shape) > 1 else "")
    result = contract(labels, [(first, left), (second, right)], out, call.shape, call.free, "linear")
    if call.name in ADDED_PRODUCTS:
        return pointwise(labels, [result, call.args[0]], call.shape, call.free)
    return result


def einsum_letters(call: Call) -> tuple[list[str], str]:
    """A letter for each dimension of each operand, and of the result."""
    equation, operands = call.args[0].replace(" ", ""), list(call.args[1])
    left, _, right = equation.partition("->")
    inputs = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    depths = [len(v.shape) - len(names.replace("...", "")) for v, names in zip(operands, inputs)]
    dots = "".join(spare[: max(depths, default=0)])
    inputs = [names.replace("...", dots[len(dots) - depth :] if depth else "") for names, depth in zip(inputs, depths)]
    if "->" not in equation:
        joined = "".join(inputs)
        right = dots + "".join(sorted(c for c in set(joined) - set(dots) if joined.count(c) == 1))
    return inputs, right.replace("...", dots)


def einsum(labels: Labels, call: Call) -> Value:
    inputs, right = einsum_letters(call)
    if any(len(set(names)) < len(names) for names in inputs):
        return unknown(labels, call)
    return contract(labels, list(zip(call.args[1], inputs)), right, call.shape, call.free, "linear")


def convolution(labels: Labels, call: Call) -> Value:
    transposed, groups = is_transposed(call), groups_of(call)
    value, weight = call.args[:2]
    bias = call.get(2, "bias")
    if not isinstance(groups, int) or (groups > 1 and weight.free):
        return unknown(labels, call)  # every sample has a kernel of its own, and is a group
    spatial = len(weight.shape) - 2
    batch = len(value.shape) - spatial - 1
    value = whole_places(labels, call, value, batch + 1, _still(call))
    for plane in weight.planes:
        if plane.cut >= 2:
            labels.fix(plane.ids, "is a place of a kernel")
    first, second = weight.shape[0] // groups, weight.shape[1]
    one = first if transposed else second
    if transposed and groups > 1 and first == 1 and second > 1:
        weight = _whole_multiplier(labels, weight)
    lead, places, kernel = "n"[:batch], "xyz"[:spatial], "uvw"[:spatial]
    names = "gco" if transposed else "goc"
    if groups > 1:
        split = (*value.shape[:batch], groups, value.shape[batch] // groups, *value.shape[batch + 1 :])
        value = move(labels, value, lambda t: t.reshape(split), [split], [value.free])[0]
        parts = (groups, first, second, *weight.shape[2:])
        weight = move(labels, weight, lambda t: t.reshape(parts), [parts], [frozenset()], 0 if one == 1 else None)[0]
        out = (*value.shape[:batch], groups, second if transposed else first, *call.shape[batch + 1 :])
        result = contract(
            labels,
            [(value, lead + "gc" + places), (weight, names + kernel)],
            lead + "go" + places,
            out,
            call.free,
            "conv",
        )
        result = move(labels, result, lambda t: t.reshape(call.shape), [call.shape], [call.free])[0]
    else:
        result = contract(
            labels,
            [(value, lead + "c" + places), (weight, names[1:] + kernel)],
            lead + "o" + places,
            call.shape,
            call.free,
            "conv",
        )
    return combined(labels, result, [vector(labels, bias, batch, len(call.shape), "conv")])


def is_transposed(call: Call) -> bool:
    """Whether a convolution is one of the transposed, whose weight is (read, made by each group, ...)."""
    return call.name in TRANSPOSED or (call.name == "convolution" and bool(call.args[6]))


def groups_of(call: Call) -> Any:
    """The groups of a convolution: a number, or what the code computes."""
    return call.get(groups_place(call), "groups", 1)


def groups_place(call: Call) -> int:
    """Where its groups stand among the arguments of a convolution, counted from 0."""
    return 8 if call.name == "convolution" else 6


def _whole_multiplier(labels: Labels, weight: Value) -> Value:
    """A depthwise transposed kernel (C, M, ...) that makes M channels of each: these go with the one that they are made of."""
    for plane in weight.planes:
        if plane.cut == 1:
            labels.fix(plane.ids, "counts the channels made of each")
    return Value(weight.shape, tuple(p for p in weight.planes if p.cut != 1), weight.free, weight.source)


def _still(call: Call) -> list[int]:
    """Of a convolution's spatial dimensions, those that its kernel, one long, does not slide over: it works place by place."""
    if call.name not in CONVOLUTIONS:
        return []
    stride, padding = call.get(3, "stride", [1]), call.get(4, "padding", [0])
    padding = [0] if isinstance(padding, str) else padding
    return [
        dim
        for dim, size in enumerate(call.args[1].shape[2:])
        if size == 1 and stride[dim % len(stride)] == 1 and padding[dim % len(padding)] == 0
    ]


def attention(labels: Labels, call: Call) -> Value:
    query, key, value = call.args[:3]
    rank = len(query.shape)
    if call.kwargs.get("enable_gqa") and query.shape[-3] != key.shape[-3]:
        key, value = (_shared_heads(labels, item, query.shape[-3]) for item in (key, value))
    lead = "abcdefgh"[: rank - 2]
    scores = contract(
        labels,
        [(query, lead + "le"), (key, lead + "se")],
        lead + "ls",
        (*query.shape[:-1], key.shape[-2]),
        call.free,
        "",
    )
    mask = call.get(3, "attn_mask")
    if isinstance(mask, Value):
        scores = pointwise(labels, [scores, mask], scores.shape, call.free)
    for plane in scores.planes:
        labels.fix(plane.ids, "stands across the scores of attention")
    for plane in value.planes:
        if plane.cut == rank - 2:
            labels.fix(plane.ids, "stands across the tokens of attention")
    planes = tuple(
        Plane(labels.unite_along(plane.ids, (rank - 2,)), plane.cut) for plane in value.planes if plane.cut != rank - 2
    )
    return Value(call.shape, planes, call.free)


def _shared_heads(labels: Labels, value: Value, heads: int) -> Value:
    """Heads of keys or values, each read by several heads of queries, once for each of these."""
    times, dim = heads // value.shape[-3], len(value.shape) - 3
    shape = (*value.shape[:dim], heads, *value.shape[dim + 1 :])
    return move(labels, value, lambda t: t.repeat_interleave(times, dim), [shape], [value.free])[0]
