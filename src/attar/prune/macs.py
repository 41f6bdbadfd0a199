"""Multiply-accumulates of a captured network, as terms in the units that are kept.

Those of contractions are known from their sizes; operations that attar has no rule for, such as a GRU or LSTM, keep all that
they read, and what they do is counted by running them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from attar.models import counting_macs
from attar.prune import nodes
from attar.prune.axes import Axes
from attar.prune.batch import shared_batch
from attar.prune.call import Call
from attar.prune.contractions import einsum_letters, is_transposed
from attar.prune.families import ADDED_PRODUCTS, ALL_CONVOLUTIONS, PRODUCTS
from attar.prune.labels import Plane, Value
from attar.prune.propagate import Walk
from attar.prune.structure import Term


def mac_terms(walk: Walk, axes: Axes) -> list[Term]:
    """One term for each contraction of the eval graph, for one sample; what is done once for a batch counts whole.

    Where inputs do not share their first dimension, nothing says what a sample is: the whole call is one.
    """
    found = [value for node, value in walk.values.items() if node.name in walk.graph.inputs]
    inputs = [value for value in found if isinstance(value, Value) and value.shape]
    batch = shared_batch(value.shape for value in inputs) or 1
    known = any(value.free for value in inputs)  # else nothing tells which operations have a batch
    terms = []
    for node, call in walk.calls.items():
        once = known and not any([*call.frees, *(value.free for value in call.values)])
        total = multiply_accumulates(call) or (0 if call.ruled else counted_macs(node))
        total /= 1 if once else batch
        for share, planes in (_contracted(call) or [(1.0, [])]) if total else []:
            lengths = [axes.of(plane.ids.reshape(-1).numpy()) for plane in planes]
            whole = np.prod([plane.ids.numel() for plane in planes]) if planes else 1
            terms.append(Term(node.name, total * share / float(whole), tuple(lengths)))
    return terms


def multiply_accumulates(call: Call) -> float:
    """Multiply-accumulates of a contraction in a call with `batch` samples as captured, or 0."""
    if call.name in ALL_CONVOLUTIONS | {"linear"}:
        return math.prod(call.args[0].shape if is_transposed(call) else call.shape) * math.prod(call.args[1].shape[1:])
    if call.name in PRODUCTS:
        return math.prod(call.shape) * call.args[0].shape[-1]
    if call.name in ADDED_PRODUCTS:
        return math.prod(call.shape) * call.args[1].shape[-1]
    if call.name == "einsum":
        return sum(count for count, _ in einsum_products(call))
    if call.name == "scaled_dot_product_attention":
        scores = math.prod(call.args[0].shape[:-1]) * call.args[1].shape[-2]
        return scores * (call.args[0].shape[-1] + call.args[2].shape[-1])
    return 0.0


def _contracted(call: Call) -> list[tuple[float, list[Plane]]]:
    """For each contraction in a call: its share of the work, and the planes whose lengths multiply."""
    if call.name == "scaled_dot_product_attention":
        query, _, value = call.args[:3]
        inner, outer = query.shape[-1], value.shape[-1]
        first = [p for p in query.planes if p.cut == len(query.shape) - 1]
        second = [p for p in value.planes if p.cut == len(value.shape) - 1]
        return [(inner / (inner + outer), first), (outer / (inner + outer), second)]
    if call.name == "einsum":
        total = multiply_accumulates(call)
        return [(count / total, planes) for count, planes in einsum_products(call)]
    if call.name in PRODUCTS | ADDED_PRODUCTS:
        first, second = call.args[-2:] if call.name in PRODUCTS else call.args[1:3]
        extra = [p for p in second.planes if p.cut == len(second.shape) - 1 and len(second.shape) > 1]
        return [(1.0, [*first.planes, *extra])]
    if len(call.values) > 1 and multiply_accumulates(call):
        value, weight = call.args[:2]
        channels = len(value.shape) - 1 if call.name == "linear" else len(value.shape) - len(weight.shape) + 1
        return [(1.0, [*weight.planes, *(p for p in value.planes if p.cut != channels)])]
    return []


def einsum_products(call: Call) -> list[tuple[int, list[Plane]]]:
    """Of the matrix products that an einsum is, from left to right: multiply-accumulates, and the planes of their letters."""
    inputs, right = einsum_letters(call)
    sizes: dict[str, int] = {}
    planes: dict[str, Plane] = {}
    for value, names in zip(call.args[1], inputs):
        for letter, size in zip(names, value.shape):
            sizes[letter] = max(size, sizes.get(letter, 1))
        for plane in value.planes:
            planes.setdefault(names[plane.cut], plane)
    found, letters = [], set(inputs[0])
    for number, names in enumerate(inputs[1:], 2):
        letters |= set(names)
        found.append((math.prod(sizes[n] for n in letters), [planes[n] for n in sorted(letters) if n in planes]))
        letters &= set(right).union(*inputs[number:])
    return found


def counted_macs(node: torch.fx.Node) -> int:
    """What torch counts where the operation alone is run, on zeros of the example's sizes; 0 where that cannot be done."""
    try:
        args, kwargs = tree_map(_zeros, (node.args, dict(node.kwargs)))
        apart = torch.random.fork_rng(devices=[])
        with torch.no_grad(), apart, counting_macs() as macs:
            node.target(*args, **kwargs)  # type: ignore[operator]
            return macs()
    except Exception:  # an operation of a library may ask for more than sizes
        return 0


def _zeros(item: Any) -> Any:
    if not isinstance(item, torch.fx.Node):
        return item
    fake = item.meta["val"]
    return torch.zeros(nodes.hints(fake)[0], dtype=fake.dtype) if isinstance(fake, torch.Tensor) else nodes.number(fake)
