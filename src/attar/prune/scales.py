"""Attention whose scale follows its width: the width changes with a cut, the scale must not.

`scaled_dot_product_attention` without a scale divides by the square root of the head's present width, and so does code that
computes the factor from shapes. The difference is folded into the weights that make the queries: exact, and free.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch

from attar.prune.families import COPIES, HOMOGENEOUS, LAYER_NORMS, LAYERS, MOVES
from attar.prune.labels import Value
from attar.prune.nodes import modules_around
from attar.prune.propagate import Walk
from attar.prune.surgery import Attributes

Factors = dict[str, torch.Tensor]
"""Tensor -> float64 (length of dim 0 as captured,): what each row is multiplied by."""

THROUGH = MOVES | COPIES | HOMOGENEOUS | {"getitem"}
"""What a factor is followed through, from the scores back to the weights."""
FIRST = {"batch_norm": 1, "layer_norm": 2, "rms_norm": 2, "group_norm": 2}
"""Where the weight and bias of a norm stand among its arguments."""


def width_factors(
    walk: Walk, left: torch.Tensor, original: Attributes, aliases: dict[str, str], parts: frozenset[str] = frozenset()
) -> Factors:
    """Factors on weights under which the module's own code, after the cut to `left`, scales attention as before it.

    Args:
        parts: paths of modules that run their captured graph, which says its scales itself.
    """
    factors: Factors = {}
    for node, call in walk.calls.items():
        ratio = 1.0
        if parts and parts.intersection(modules_around(node)):
            continue
        query = cast(torch.fx.Node, node.args[0]) if node.args else node
        if call.name == "scaled_dot_product_attention":
            scale = call.kwargs.get("scale")
            ratio = _ratio(call.args[0], left) if scale is None else _by_shape(node, query, walk, left, original, scale)
        elif call.name in ("mul", "div") and len(call.args) > 1 and isinstance(call.args[1], float) and call.args[1]:
            # the scores are scaled, not the query
            if query in walk.calls and walk.calls[query].name in ("matmul", "bmm"):
                query = cast(torch.fx.Node, query.args[0])
            scale = 1 / call.args[1] if call.name == "div" else call.args[1]
            ratio = _by_shape(node, query, walk, left, original, scale)
        if ratio != 1.0:
            _fold(walk, query, ratio, factors, aliases)
    return factors


def _ratio(query: Value, left: torch.Tensor) -> float:
    """sqrt(width after / width before) of the last dimension."""
    plane = query.plane(len(query.shape) - 1)
    if plane is None:
        return 1.0
    after = float(left[plane.row_matrix()[0]].sum())
    return math.sqrt(after / query.shape[-1])


def _by_shape(
    node: torch.fx.Node, query: torch.fx.Node, walk: Walk, left: torch.Tensor, original: Attributes, scale: float
) -> float:
    """The ratio where a factor 1/sqrt(width of the query) stands in the code, and no attribute holds it."""
    value = walk.values[query]
    found = isinstance(value, Value) and value.shape and math.isclose(scale**2 * value.shape[-1], 1, rel_tol=1e-6)
    if not found:
        return 1.0
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    held = any(
        isinstance(number, float) and any(math.isclose(number, kept, rel_tol=1e-6) for kept in (scale, 1 / scale))
        for path, _ in stack[-2:]
        for number in original.get(str(path), {}).values()
    )
    return 1.0 if held else _ratio(value, left)


def _fold(walk: Walk, start: torch.fx.Node, ratio: float, factors: Factors, aliases: dict[str, str]) -> None:
    """Multiply the rows of the weights that make a value, reached through data movement alone."""
    value, node = walk.values[start], start
    while node.op == "call_function":
        name = walk.calls[node].name if node in walk.calls else getattr(node.target, "__name__", "")
        if name in LAYERS:
            break
        if name not in THROUGH:
            return
        node = node.args[0]  # type: ignore[assignment]
    else:
        return
    plane = value.plane(len(value.shape) - 1)
    if plane is None:
        return
    first = FIRST.get(walk.calls[node].name, 1)
    for source in node.args[first : first + 2]:
        if isinstance(source, torch.fx.Node):
            length = walk.values[source].shape[0]
            _multiply(walk, source, _rows(walk, node, plane.ids, length), ratio, factors, aliases)


def _multiply(
    walk: Walk, source: torch.fx.Node, rows: torch.Tensor, ratio: float, factors: Factors, aliases: dict[str, str]
) -> None:
    """Multiply these rows of a tensor of the network, or of several that are joined."""
    if source.name in walk.graph.tensors:
        tensor = aliases[walk.graph.tensors[source.name]]
        factors.setdefault(tensor, torch.ones(len(rows), dtype=torch.float64))[rows] *= ratio
    elif source in walk.calls and walk.calls[source].name == "cat" and walk.calls[source].get(1, "dim", 0) == 0:
        parts = source.all_input_nodes
        for part, mine in zip(parts, rows.split([walk.values[part].shape[0] for part in parts])):
            _multiply(walk, part, mine, ratio, factors, aliases)


def _rows(walk: Walk, node: torch.fx.Node, ids: torch.Tensor, length: int) -> torch.Tensor:
    """bool (length,): rows of the layer at `node` whose labels are among `ids`; all of a norm over the last dimension,
    whose rows several heads may share."""
    made, name = walk.values[node], walk.calls[node].name
    if name in LAYER_NORMS:
        return torch.ones(length, dtype=torch.bool)
    made = made[0] if isinstance(made, list) else made
    plane = made.plane(len(made.shape) - 1 if name == "linear" else 1)
    if plane is None:
        return torch.zeros(length, dtype=torch.bool)
    return torch.from_numpy(np.isin(plane.ids.reshape(-1).numpy(), ids.reshape(-1).numpy()))


def relative(before: Factors, after: Factors) -> Factors:
    """What takes weights that carry `before` to weights that carry `after`."""
    result = {}
    for name in {**before, **after}:
        some = before.get(name, after.get(name))
        assert some is not None
        one = torch.ones_like(some)
        change = after.get(name, one) / before.get(name, one)
        if bool((change != 1).any()):
            result[name] = change
    return result


def multiply_rows(tensor: torch.Tensor, factor: torch.Tensor) -> None:
    """Multiply a tensor's rows in place."""
    factor = factor.to(tensor.device, tensor.dtype)
    tensor.mul_(factor.view(-1, *[1] * (tensor.dim() - 1)))
