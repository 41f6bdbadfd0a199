"""Walk a captured graph and label every value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attar.prune import contractions, families, making, rules
from attar.prune.call import Call, Rule
from attar.prune.graph import CaptureError, Graph
from attar.prune.labels import Labels, Plane, Value, pointwise
from attar.prune.movement import balance_parts, move
from attar.prune.nodes import described, number, operation_name, place, sized_by_data

RULES: dict[str, Rule] = {
    **dict.fromkeys(("linear",), contractions.linear),
    **dict.fromkeys(families.PRODUCTS | families.ADDED_PRODUCTS, contractions.matmul),
    "einsum": contractions.einsum,
    **dict.fromkeys(families.ALL_CONVOLUTIONS, contractions.convolution),
    **dict.fromkeys(["batch_norm", "_native_batch_norm_legit_functional"], rules.batch_norm),
    **dict.fromkeys(families.LAYER_NORMS, rules.layer_norm),
    **dict.fromkeys(("group_norm",), rules.group_norm),
    "im2col": rules.unfolded,
    "col2im": rules.folded,
    "instance_norm": rules.instance_norm,
    **dict.fromkeys(families.SOFTMAXES, rules.softmax),
    **dict.fromkeys(families.REDUCTIONS, rules.reduction),
    **dict.fromkeys(("argmax", "argmin"), rules.places),
    "scaled_dot_product_attention": contractions.attention,
    "embedding": rules.embedding,
    **dict.fromkeys(families.ALONG, rules.along),
    **dict.fromkeys(families.SPATIAL, rules.spatial),
    **dict.fromkeys(families.MAKERS, making.maker),
    **dict.fromkeys(families.LIKES, making.like),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), making.expand),
    "repeat": making.repeat,
    "cat": making.cat,
    "concat": making.cat,
    "stack": making.stack,
    **dict.fromkeys(families.PADS, making.pad),
    **dict.fromkeys(("index", "index_select"), making.index),
}


class Walk:
    """Labels of one graph. `values` holds a `Value`, a list of them, or a number for every node."""

    def __init__(self, labels: Labels, tensors: dict[str, Value], graph: Graph, strict: bool):
        self.labels, self.tensors, self.graph, self.strict = labels, tensors, graph, strict
        self.values: dict[torch.fx.Node, Any] = {}
        self.calls: dict[torch.fx.Node, Call] = {}

    def run(self) -> None:
        for node in self.graph.module.graph.nodes:
            self.labels.where = place(node)
            if sized_by_data(node.meta.get("val")):
                raise CaptureError(
                    f"a size depends on the numbers in a tensor ({place(node)}), which attar cannot follow"
                )
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                self._output(node)
        self.labels.where = ""

    def _placeholder(self, node: torch.fx.Node) -> Any:
        if node.name in self.graph.tensors:
            return self.tensors[self.graph.tensors[node.name]]
        fake = node.meta.get("val")
        if not isinstance(fake, torch.Tensor):
            return number(fake)
        shape, free = described(fake, (node.meta.get("free") or [None])[0])
        constant = self.graph.constants.get(node.name)
        return Value(shape, (), free, known=None if constant is None else constant.detach().cpu())

    def _output(self, node: torch.fx.Node) -> None:
        self.labels.where = ""
        for source in node.all_input_nodes:
            value = self.values[source]
            for item in value if isinstance(value, list) else [value]:
                for plane in item.planes if isinstance(item, Value) else ():
                    self.labels.fix(plane.ids, "output")

    def _call(self, node: torch.fx.Node) -> Any:
        if any(source.op == "get_attr" for source in node.all_input_nodes):
            raise CaptureError(
                f"{place(node)} runs code of its own, such as one of two branches, which attar cannot follow"
            )
        fake = node.meta.get("val")
        args, kwargs = self._arguments(node.args), self._arguments(node.kwargs)
        if getattr(node.target, "__name__", "") == "getitem" and isinstance(args[0], list):
            source = self.calls.get(node.all_input_nodes[0])
            if source is not None and source.name in families.WITH_PLACES and args[1] and node.users:
                rules.picked_places(self.labels, source)
            return args[0][args[1]]
        results = [f for f in (fake if isinstance(fake, list | tuple) else [fake]) if isinstance(f, torch.Tensor)]
        if not results:
            return number(fake)
        shapes, frees = zip(*map(described, results, node.meta.get("free") or [None] * len(results)))
        call = Call(
            operation_name(node.target),
            node.target,
            tuple(args),
            kwargs,
            list(shapes),
            list(frees),
            self.strict,
        )
        self.calls[node] = call
        if getattr(node.target, "_schema", None) is not None and node.target._schema.is_mutable:  # type: ignore[union-attr]
            self._written(node)
        known = self._known(call, results)
        if known is not None:
            return known
        found = apply(self.labels, call)
        if isinstance(fake, list | tuple) and not isinstance(found, list):
            return [found]
        return found[0] if isinstance(found, list) and isinstance(fake, torch.Tensor) else found

    def _written(self, node: torch.fx.Node) -> None:
        """Units written into at every second place or so stay: a cut leaves no view of them that could be written into."""
        view = node.args[0]
        while isinstance(view, torch.fx.Node) and view in self.calls and self.calls[view].name in families.MOVES:
            call, value = self.calls[view], self.calls[view].args[0]
            if call.name == "slice" and call.get(4, "step", 1) > 1:
                plane = value.plane(call.get(1, "dim", 0) % len(value.shape))
                if plane is not None:
                    self.labels.fix(plane.ids, "is written into with a step")
            view = view.args[0]

    def _arguments(self, tree: Any) -> Any:
        if isinstance(tree, torch.fx.Node):
            return self.values[tree]
        if isinstance(tree, list | tuple):
            return [self._arguments(item) for item in tree]
        if isinstance(tree, dict):
            return {key: self._arguments(item) for key, item in tree.items()}
        return tree

    def _known(self, call: Call, fakes: list[torch.Tensor]) -> Any:
        """The result itself where nothing but constants goes in; floating constants made here are left to the rules."""
        values = call.values
        if (
            call.name in families.UNSET
            or torch.Tag.nondeterministic_seeded in getattr(call.target, "tags", ())
            or any(value.known is None for value in values)
            or sum(f.numel() for f in fakes) > 2**22
        ):
            return None
        if not values and call.name in families.MAKERS and fakes[0].dtype.is_floating_point:
            return None
        kwargs = {key: item for key, item in call.kwargs.items() if key not in ("device", "pin_memory")}
        real = call.target(*_real(call.args), **_real(kwargs))
        results = [real] if isinstance(real, torch.Tensor) else list(real)
        found = [Value(shape, (), free, known=r) for shape, free, r in zip(call.shapes, call.frees, results)]
        return found[0] if isinstance(real, torch.Tensor) else found


def apply(labels: Labels, call: Call) -> Any:
    """The labels of an operation's result: by its rule, by moving labels, element by element, or by fixing what it reads."""
    if not call.values:
        return making.maker(labels, call)
    if call.name in RULES:
        return RULES[call.name](labels, call)
    if call.name in families.MOVES and isinstance(call.args[0], Value) and len(call.values) == 1:
        return _moved(labels, call)
    if call.name in ("view_as", "reshape_as"):
        return move(labels, call.args[0], lambda t: t.reshape(call.shape), call.shapes, call.frees)[0]
    if call.name == "glu":
        return _gated(labels, call)
    if call.name == "prelu":
        return rules.combined(
            labels, call.args[0], [rules.vector(labels, call.args[1], 1, len(call.shape), "pointwise")]
        )
    if is_pointwise(call):
        return pointwise(labels, call.values, call.shape, call.free)
    return rules.unknown(labels, call)


def _moved(labels: Labels, call: Call) -> Any:
    value, rest = call.args[0], call.args[1:]
    target: Callable[..., Any] = call.target
    if call.name in ("view", "_unsafe_view", "reshape"):
        target = torch.reshape
        rest = (call.shape,)
    if call.name in ("channel_shuffle", "native_channel_shuffle"):
        return _shuffled(labels, value, call)
    if call.name == "pixel_shuffle":
        value = _whole_pixels(labels, value, rest[0] ** 2)
    found = move(labels, value, lambda t: target(t, *rest, **call.kwargs), call.shapes, call.frees)
    if call.name in families.EQUAL_PARTS:
        balance_parts(labels, found, call.get(2, "dim", 0))
    many = "List" in str(call.target._schema.returns[0].type)
    return found if many else found[0]


def _gated(labels: Labels, call: Call) -> Any:
    """The first half times the sigmoid of the second: as code with `chunk` has it."""
    value = call.args[0]
    dim = call.get(1, "dim", -1) % len(value.shape)
    halves = move(labels, value, lambda t: t.chunk(2, dim), [call.shape] * 2, [call.free] * 2)
    balance_parts(labels, halves, dim)
    return pointwise(labels, halves, call.shape, call.free)


def _shuffled(labels: Labels, value: Value, call: Call) -> Value:
    """Channels in groups, woven into one another: by the three moves that it is, so that groups lose the same number."""
    batch, channels, *rest = value.shape
    groups = call.get(1, "groups")
    free = frozenset(dim + (dim > 1) for dim in value.free)
    apart, across = (batch, groups, channels // groups, *rest), (batch, channels // groups, groups, *rest)
    value = move(labels, value, lambda t: t.reshape(apart), [apart], [free])[0]
    value = move(labels, value, lambda t: t.transpose(1, 2), [across], [free])[0]
    return move(labels, value, lambda t: t.flatten(1, 2), [call.shape], [call.free])[0]


def _whole_pixels(labels: Labels, value: Value, parts: int) -> Value:
    """Channels (..., C x parts, H, W) that become the pixels of one channel are one unit: an image loses no columns."""
    planes = []
    for plane in value.planes:
        if plane.cut == len(value.shape) - 3:
            runs = plane.ids.unflatten(plane.cut, (-1, parts))
            ids = labels.unite_along(runs, (plane.cut + 1,)).repeat_interleave(parts, plane.cut + 1)
            plane = Plane(ids.flatten(plane.cut, plane.cut + 1), plane.cut)
        planes.append(plane)
    return Value(value.shape, tuple(planes), value.free, value.source, value.known)


def is_pointwise(call: Call) -> bool:
    if call.name in families.SAME or torch.Tag.pointwise in getattr(call.target, "tags", ()):
        return True
    packet = getattr(torch.ops.aten, call.name, None)
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())


def _real(tree: Any) -> Any:
    if isinstance(tree, Value):
        return None if tree.known is None else tree.known.clone()  # operations in place must not reach the network
    if isinstance(tree, list | tuple):
        return [_real(item) for item in tree]
    if isinstance(tree, dict):
        return {key: _real(item) for key, item in tree.items()}
    return tree


def tensor_values(labels: Labels, tensors: dict[str, torch.Tensor]) -> dict[str, Value]:
    """Parameters and buffers: new labels for every dimension of a floating one, the numbers themselves of any other."""
    values = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            values[name] = Value(shape, source=frozenset({name}), known=tensor.detach().cpu())
            continue
        planes = []
        for dim, size in enumerate(shape):
            if size > 1:
                ids = labels.fresh(size, name, dim)
                planes.append(Plane(ids.view([-1 if d == dim else 1 for d in range(len(shape))]), dim))
        values[name] = Value(shape, tuple(planes), source=frozenset({name}))
    return values
