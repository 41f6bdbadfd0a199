"""The captured original with the removed units masked: what a cut network must compute.

Every value is multiplied by the mask of its labels. Operations that mix units (norms, softmax, means, maxima over them) see the
kept units only: these are gathered, the operation is run, its result is put back between zeros.
"""

from __future__ import annotations

from typing import Any

import torch

from attar.prune.call import Call
from attar.prune.families import LAYER_NORMS, MOVES, REDUCTIONS, SOFTMAXES
from attar.prune.labels import Plane, Value
from attar.prune.propagate import Walk
from attar.prune.rules import by_batch, reduced


class Masked(torch.fx.Interpreter):
    """Runs a captured graph with the labels in `left` (bool, by label) kept and all others masked.

    Args:
        tensors: every parameter and buffer by name, in the shapes of the network as captured.
    """

    def __init__(self, walk: Walk, left: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__(walk.graph.module, garbage_collect_values=True)
        self.walk, self.left, self.tensors = walk, left, tensors
        self.device = next((tensor.device for tensor in tensors.values()), left.device)
        """Where the network is; labels and their masks are on the CPU."""
        self._gone_by_ids: dict[int, torch.Tensor | None] = {}

    def answer(self, leaves: list[Any]) -> list[Any]:
        """The flattened outputs for the flattened example inputs."""
        inputs = iter(leaves)
        arguments = []
        for node in self.walk.graph.module.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in self.walk.graph.tensors:
                arguments.append(self.tensors[self.walk.graph.tensors[node.name]])
            elif node.name in self.walk.graph.constants:
                constant = self.walk.graph.constants[node.name]
                arguments.append(constant.double() if constant.is_floating_point() else constant)
            elif node.name in self.walk.graph.inputs:
                arguments.append(next(inputs))
            else:
                arguments.append(None)  # type: ignore[arg-type]  # an argument that the graph does not use
        return list(self.run(*arguments))

    def run_node(self, node: torch.fx.Node) -> Any:
        call = self.walk.calls.get(node)
        if node.op == "placeholder":
            given = super().run_node(node)
            masked = self._masked(given, self.walk.values[node])
            # the graph may write into it: never into the caller's own
            return given.clone() if masked is given and isinstance(given, torch.Tensor) else masked
        if node.op != "call_function" or call is None:
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        kwargs = {key: widened(item) for key, item in kwargs.items()}
        args = tuple(widened(item) for item in args)
        special = self._mixed(node, call, list(args), kwargs)
        target = viewed if call.name == "view" else node.target
        result = special if special is not None else target(*args, **kwargs)  # type: ignore[operator]
        if call.name in MOVES:
            return result  # masked as its input is, and still a view of it: writing into it must reach the whole
        return self._masked(result, self.walk.values[node], in_place=node.target._schema.is_mutable)  # type: ignore[union-attr]

    def _masked(self, result: Any, value: Any, in_place: bool = False) -> Any:
        if isinstance(result, list | tuple) and isinstance(value, list):
            return type(result)(self._masked(r, v) for r, v in zip(result, value))
        if isinstance(result, torch.Tensor) and isinstance(value, Value) and result.is_floating_point():
            for plane in value.planes:
                gone = self._gone(plane)
                if gone is not None:
                    # Filled, not multiplied: 0 / 0 is no number.
                    result = result.masked_fill_(gone, 0) if in_place else result.masked_fill(gone, 0)
        return result

    def _gone(self, plane: Plane) -> torch.Tensor | None:
        """bool, of the shape of the plane's labels: where something went; None if nothing did."""
        key = id(plane.ids)  # many values share them, and the walk keeps them alive
        if key not in self._gone_by_ids:
            gone = ~self.left[plane.ids]
            self._gone_by_ids[key] = gone.to(self.device) if bool(gone.any()) else None
        return self._gone_by_ids[key]

    def _mixed(self, node: torch.fx.Node, call: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result of an operation that mixes units, over the kept ones; None if this one does not."""
        value = call.args[0] if call.args and isinstance(call.args[0], Value) else None
        if value is None:
            return None
        if call.name in SOFTMAXES:
            return self._within(value, [call.get(1, "dim") % len(value.shape)], args, kwargs, node, back=True)
        if call.name in LAYER_NORMS:
            return self._layer_norm(value, call, args, kwargs, node)
        if call.name == "group_norm" and value.shape[1] > call.args[1]:
            return self._group_norm(value, call, args, kwargs, node)
        if call.name == "batch_norm" and by_batch(call):
            return self._within(value, list(range(2, len(value.shape))), args, kwargs, node, back=True)
        if call.name == "conv1d":
            return self._within(value, [2], args, kwargs, node, back=True)
        if call.name in REDUCTIONS:
            return self._within(value, reduced(call), args, kwargs, node)
        return None

    def _lost(self, value: Value, dims: Any) -> list[Plane]:
        return [p for p in value.planes if p.cut in dims and self._gone(p) is not None]

    def _within(
        self,
        value: Value,
        dims: list[int],
        args: list[Any],
        kwargs: dict[str, Any],
        node: torch.fx.Node,
        back: bool = False,
    ) -> Any:
        planes = self._lost(value, dims)
        if not planes:
            return None
        picked = [(plane, self._places(plane)) for plane in planes]
        for plane, places in picked:
            args[0] = gather(args[0], plane.cut, places)
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        if back:
            for plane, places in reversed(picked):
                made = self.walk.values[node].plane(plane.cut)  # it may have fewer rows than what went in
                places = places if made is None else self._places(made)
                result = scatter(result, plane.cut, places, value.shape[plane.cut])
        return result

    def _layer_norm(
        self, value: Value, call: Call, args: list[Any], kwargs: dict[str, Any], node: torch.fx.Node
    ) -> Any:
        start = len(value.shape) - len(call.args[1])
        planes = self._lost(value, range(start, len(value.shape)))
        if not planes:
            return None
        shape = list(call.args[1])
        for plane in planes:
            places = self._places(plane)
            args[0] = gather(args[0], plane.cut, places)
            shape[plane.cut - start] = places.shape[plane.cut]
            for number in (2, 3):  # weight and bias; rms_norm has its eps there
                if len(args) > number and isinstance(args[number], torch.Tensor):
                    args[number] = args[number].index_select(plane.cut - start, self._line(plane))
        args[1] = shape
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        for plane in reversed(planes):
            result = scatter(result, plane.cut, self._places(plane), value.shape[plane.cut])
        return result

    def _group_norm(
        self, value: Value, call: Call, args: list[Any], kwargs: dict[str, Any], node: torch.fx.Node
    ) -> Any:
        planes = self._lost(value, (1,))
        if not planes:
            return None
        places, line = self._places(planes[0]), self._line(planes[0])
        args[0] = gather(args[0], 1, places)
        for number in (2, 3):
            if len(args) > number and args[number] is not None:
                args[number] = args[number][line]
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        return scatter(result, 1, places, value.shape[1])

    def _places(self, plane: Plane) -> torch.Tensor:
        """Kept indices along `cut`, int64, of the plane's shape with the kept count on `cut`."""
        mask = self.left[plane.ids].movedim(plane.cut, -1)
        count = int(mask.reshape(-1, mask.shape[-1])[0].sum())
        places = torch.nonzero(mask.reshape(-1, mask.shape[-1]))[:, 1]
        return places.reshape(*mask.shape[:-1], count).movedim(-1, plane.cut).to(self.device)

    def _line(self, plane: Plane) -> torch.Tensor:
        """Kept indices along `cut`; norms' weights have no rows, so all rows keep the same."""
        return self._places(plane).movedim(plane.cut, -1).reshape(-1, self._places(plane).shape[plane.cut])[0]


def viewed(tensor: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """A view, or a copy where one made in a trace, of a tensor that lay otherwise in memory, is none here."""
    return tensor.reshape(shape)


def gather(tensor: torch.Tensor, dim: int, places: torch.Tensor) -> torch.Tensor:
    """Elements at `places` along `dim`; `places` is one long on dimensions that it does not depend on."""
    shape = [places.shape[d] if d == dim else size for d, size in enumerate(tensor.shape)]
    return tensor.gather(dim, places.expand(shape))


def scatter(tensor: torch.Tensor, dim: int, places: torch.Tensor, length: int) -> torch.Tensor:
    """The inverse of `gather`: zeros elsewhere."""
    shape = [length if d == dim else size for d, size in enumerate(tensor.shape)]
    return tensor.new_zeros(shape).scatter(dim, places.expand(tensor.shape), tensor)


def widened(item: Any) -> Any:
    """Floating types as float64, so that casts in the graph keep the proof's precision."""
    small = isinstance(item, torch.dtype) and item in (torch.float32, torch.float16, torch.bfloat16)
    return torch.float64 if small else item


def spread(tensor: torch.Tensor, shape: tuple[int, ...], cuts: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """A cut tensor back in its original shape, zeros where indices went."""
    for dim, index in cuts:
        full = list(tensor.shape)
        full[dim] = shape[dim]
        tensor = tensor.new_zeros(full).index_copy(dim, index.to(tensor.device), tensor)
    return tensor
