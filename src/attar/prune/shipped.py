"""A network that runs its captured graph: for modules whose own code cannot follow a cut."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from attar.prune.propagate import Walk
from attar.prune.rewrite import Rewriter

CONSTANT = "attar_constant_"


def ship(model: nn.Module, walks: list[Walk], left: torch.Tensor) -> None:
    """Make `model` run the rewritten graphs, in eval and train mode, with its own parameters and buffers.

    The module object, its parameters, names and hooks on itself stay; hooks on its parts no longer run.

    Raises:
        RewriteError: a size in the graph cannot be written anew.
    """
    runs = [_runnable(walk, left) for walk in walks]
    for walk in walks:
        for name, tensor in walk.graph.constants.items():
            if not hasattr(model, CONSTANT + name):
                reference = next((p for p in model.parameters()), tensor)
                model.register_buffer(CONSTANT + name, tensor.detach().clone().to(reference.device), persistent=False)
    model.forward = types.MethodType(_Forward(*runs, *([None] if len(runs) == 1 else [])), model)


class _Forward:
    """Picks the graph of the module's mode. Bound to the module, so that a deep copy runs on its own parameters."""

    def __init__(self, evaluation: Any, training: Any) -> None:
        self.evaluation, self.training = evaluation, training

    def __deepcopy__(self, memo: Any) -> _Forward:
        return self

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run, spec_in, spec_out = self.training if model.training and self.training else self.evaluation
        leaves, spec = tree_flatten((args, kwargs))
        if len(leaves) != spec_in.num_leaves:
            raise ValueError(
                "this network runs the graph that was captured: call it with the same arguments as the example inputs"
            )
        return tree_unflatten(run(model, *leaves), spec_out)


def _runnable(walk: Walk, left: torch.Tensor) -> tuple[Any, Any, Any]:
    """(function of the module and flat inputs, input spec, output spec)."""
    graph = Rewriter(walk, left).graph()
    for node in list(graph.nodes):
        if node.op != "placeholder" or node.name in walk.graph.inputs:
            continue
        target = walk.graph.tensors.get(node.name, CONSTANT + node.name)
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(target))
        graph.erase_node(node)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<captured graph>", "exec"), scope)
    assert len(inputs) == len(walk.graph.inputs)
    spec = walk.graph.program.call_spec
    return scope["forward"], spec.in_spec, spec.out_spec
