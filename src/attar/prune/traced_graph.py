"""The graph of a quick trace, as `torch.export` would write it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

from attar.prune.trace import Batch, Ref, Step, Trace, refs


class Builder:
    """The graph of a trace, as `torch.export` would write it."""

    def __init__(self, trace: Trace, frees: list[list[frozenset[int]]], batch: int) -> None:
        self.trace, self.frees, self.batch = trace, frees, batch
        self.graph = torch.fx.Graph()
        self.nodes: dict[Ref, torch.fx.Node] = {}
        self.sizes: dict[int, torch.fx.Node] = {}
        self.tensors: dict[str, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.inputs: list[str] = []

    def build(self, tensors: dict[str, torch.Tensor]) -> torch.fx.GraphModule:
        """`tensors`: parameters and buffers by name."""
        used = {ref: None for step in self.trace.steps for ref in refs((step.args, step.kwargs))}
        used |= {ref: None for ref in refs(self.trace.outputs)}
        for ref in used:
            if ref.kind == "tensor":
                self._placeholder(ref, "p_" + ref.key.replace(".", "_"), tensors[ref.key])
                self.tensors[self.nodes[ref].name] = ref.key
            elif ref.kind == "constant":
                self._placeholder(ref, f"c_{ref.key}", self.trace.constants[ref.key])
                self.constants[self.nodes[ref].name] = self.trace.constants[ref.key]
        for number, leaf in enumerate(self.trace.inputs):
            self._placeholder(Ref("input", number), f"input_{number}", leaf)
            self.inputs.append(self.nodes[Ref("input", number)].name)
        for number, step in enumerate(self.trace.steps):
            self._step(number, step, self.frees[number] if self.frees else [frozenset()] * len(step.shapes))
        self.graph.output(tuple(self._written(self.trace.outputs)))
        return _Uncompiled(nn.Module(), self.graph)

    def _placeholder(self, ref: Ref, name: str, value: Any) -> None:
        node = self.graph.placeholder(name)
        node.meta["val"] = _described(value.shape, value.dtype) if isinstance(value, torch.Tensor) else value
        batched = ref.kind == "input" and self.frees and isinstance(value, torch.Tensor) and value.dim()
        node.meta["free"] = [frozenset({0}) if batched else frozenset()]
        self.nodes[ref] = node

    def _step(self, number: int, step: Step, frees: list[frozenset[int]]) -> None:
        args, kwargs = tuple(self._written(step.args)), self._written(step.kwargs)
        node = self.graph.call_function(step.function, args, kwargs)
        vals = [_described(shape, dtype) for shape, dtype in zip(step.shapes, step.dtypes)]
        node.meta = {"val": vals if step.many else vals[0], "free": frees}
        node.meta["nn_module_stack"] = {str(depth): entry for depth, entry in enumerate(step.stack)}
        if not step.many:
            self.nodes[Ref("step", number)] = node
            return
        for place, (val, free) in enumerate(zip(vals, frees)):
            item = self.graph.call_function(operator.getitem, (node, place))
            item.meta = {**node.meta, "val": val, "free": [free]}
            self.nodes[Ref("step", number, place)] = item

    def _written(self, item: Any) -> Any:
        if isinstance(item, Ref):
            return self.nodes[item]
        if isinstance(item, list):
            return [self._written(part) for part in item]
        if isinstance(item, dict):
            return {key: self._written(part) for key, part in item.items()}
        return self._size(item) if type(item) is Batch else item

    def _size(self, times: int) -> torch.fx.Node:
        """The node of a multiple of the batch."""
        if times not in self.sizes:
            if times == 1:
                first = next(n for n in self.nodes.values() if n.name in self.inputs and n.meta["free"][0])
                node = self.graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
            else:
                node = self.graph.call_function(operator.mul, (self._size(1), int(times)))
            node.meta = {"val": times * self.batch}
            self.sizes[times] = node
        return self.sizes[times]


class _Uncompiled(torch.fx.GraphModule):
    """Holds a graph that is only walked, node by node: no code is made of it."""

    def recompile(self) -> Any:
        return None


def _described(shape: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")
