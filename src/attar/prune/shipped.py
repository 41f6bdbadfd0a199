"""A network that runs its captured graph: for modules whose own code cannot follow a cut."""

from __future__ import annotations

import types
from collections.abc import Callable, Container, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_flatten, tree_unflatten, treespec_dumps, treespec_loads

from attar.prune.graph import numbers
from attar.prune.modules import all_modules
from attar.prune.propagate import Walk
from attar.prune.rewrite import Rewriter
from attar.prune.written import read_graph, write_graph

CONSTANT = "attar_constant_"
"""Prefix of the buffers that hold what the network's code made when it was captured."""


def ship(model: nn.Module, graphs: Mapping[str, list[Walk]], left: torch.Tensor, captured: Container[str] = ()) -> None:
    """Make modules of `model` run the rewritten graphs, in eval and train mode, with their own parameters and buffers.

    All other modules run their own code.

    The module objects, their parameters, names and hooks on themselves stay; hooks on what is in them no longer run.

    Args:
        graphs: module path -> its graphs, in eval and train mode; the whole network's path is empty.
        captured: names of the tensors that the network had when these were made; see `unship`.

    Raises:
        RewriteError: a size in a graph cannot be written anew; nothing was changed.
    """
    runs = {
        path: [_Run(_own_tensors(walk, left), walk.graph.numbers, *walk.graph.specs) for walk in walks]
        for path, walks in graphs.items()
    }
    unship(model, captured)
    for path, walks in graphs.items():
        module = model.get_submodule(path)
        for walk in walks:
            for name, tensor in walk.graph.constants.items():
                _register(module, CONSTANT + name, tensor.detach().clone())
        module.forward = _bound(module, runs[path])


def unship(model: nn.Module, captured: Container[str] = ()) -> None:
    """Let all modules run their own code again.

    Args:
        captured: names of constants that stay, as a graph made after theirs has them among its tensors.
    """
    for path, module in all_modules(model).items():
        if _runs(module):
            del module.forward
            for name in [n for n, _ in module.named_buffers(recurse=False) if n.startswith(CONSTANT)]:
                if (f"{path}.{name}" if path else name) not in captured:
                    delattr(module, name)


def running(model: nn.Module) -> Running:
    """The graphs that modules run now, by their paths."""
    return {path: runs for path, module in model.named_modules() if (runs := _runs(module))}


def run_again(model: nn.Module, graphs: Running) -> None:
    """Let modules run graphs that `running` told; their constants must be there."""
    for path, runs in graphs.items():
        module = model.get_submodule(path)
        module.forward = _bound(module, runs)


def shipped(model: nn.Module) -> dict[str, Any]:
    """What modules made by `ship` run, as plain JSON by their paths; empty for any other network.

    Raises:
        ValueError: a graph holds something that cannot be written down.
    """
    return {path: _written(module) for path, module in model.named_modules() if _runs(module)}


def _runs(module: nn.Module) -> list[_Run]:
    forward = vars(module).get("forward")
    return [] if forward is None else getattr(getattr(forward, "__func__", None), "runs", [])


def _written(module: nn.Module) -> dict[str, Any]:
    return {
        "graphs": [
            {
                "nodes": write_graph(run.graph),
                "numbers": run.numbers,
                "inputs": treespec_dumps(run.inputs),
                "outputs": treespec_dumps(run.outputs),
            }
            for run in _runs(module)
        ],
        "constants": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in module.named_buffers(recurse=False)
            if name.startswith(CONSTANT)
        },
    }


def ship_written(model: nn.Module, description: Mapping[str, Any]) -> None:
    """Make modules run graphs that `shipped` wrote down; the constants' values are to be loaded with the weights.

    Raises:
        ValueError: the description is malformed, or names something that is not an operation of torch.
    """
    try:
        for path, part in description.items():
            module = model.get_submodule(path)
            runs = [
                _Run(read_graph(g["nodes"]), g["numbers"], treespec_loads(g["inputs"]), treespec_loads(g["outputs"]))
                for g in part["graphs"]
            ]
            for name, form in part["constants"].items():
                dtype = getattr(torch, form["dtype"])
                if not name.startswith(CONSTANT) or not name.isidentifier() or not isinstance(dtype, torch.dtype):
                    raise ValueError(f"{name!r} is no constant of a graph")
                _register(module, name, torch.zeros([int(size) for size in form["shape"]], dtype=dtype))
            module.forward = _bound(module, runs)
    except ValueError:
        raise
    except Exception as problem:  # whatever torch and Python say to a graph that somebody else wrote
        raise ValueError(f"the description's graph cannot be read: {type(problem).__name__}: {problem}") from None


class _Run:
    """A graph turned into a function of the module and the flattened inputs."""

    def __init__(self, graph: torch.fx.Graph, numbers: list[Any], inputs: Any, outputs: Any) -> None:
        self.graph, self.numbers, self.inputs, self.outputs = graph, numbers, inputs, outputs
        self.function, self._devices = _function(graph), _devices(graph)
        self._elsewhere: dict[torch.device, Callable[..., Any]] = {}

    def on(self, device: torch.device | None) -> Callable[..., Any]:
        """The function, making what it makes on `device`: the graph names the one that it was captured on."""
        if device is None or self._devices <= {device}:
            return self.function
        if device not in self._elsewhere:
            self._elsewhere[device] = _function(_moved(self.graph, device))
        return self._elsewhere[device]


def _function(graph: torch.fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<captured graph>", "exec"), scope)
    found: Callable[..., Any] = scope["forward"]
    return found


def _devices(graph: torch.fx.Graph) -> set[torch.device]:
    """Those that the graph names."""
    found: set[torch.device] = set()
    for node in graph.nodes:
        map_aggregate(
            (node.args, node.kwargs), lambda part: found.add(part) if isinstance(part, torch.device) else None
        )
    return found


def _moved(graph: torch.fx.Graph, device: torch.device) -> torch.fx.Graph:
    """A copy that names this device wherever the graph names one."""
    copy = torch.fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in copy.nodes:
        node.args, node.kwargs = (
            map_aggregate(part, lambda leaf: device if isinstance(leaf, torch.device) else leaf)
            for part in (node.args, node.kwargs)
        )
    return copy


Running = dict[str, list[_Run]]
"""Module path -> its graphs, in eval and train mode."""


def _bound(model: nn.Module, runs: list[_Run]) -> types.MethodType:
    """A forward that picks the graph of the module's mode; bound, so that a deep copy runs on its own parameters."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = runs[-1] if self.training else runs[0]
        leaves, _ = tree_flatten((args, kwargs))
        if numbers(leaves) != run.numbers:
            raise ValueError(
                f"{type(self).__name__} runs the graph that was captured: call it with the same arguments as then, "
                f"of which those that are no tensors were {run.numbers}, not {numbers(leaves)}"
            )
        held = chain(self.parameters(), self.buffers(), leaves)  # the first tells; a forward pass walks over no others
        tensors = (leaf for leaf in held if isinstance(leaf, torch.Tensor))
        device = next((tensor.device for tensor in tensors), None)
        return tree_unflatten(run.on(device)(self, *leaves), run.outputs)

    forward.runs = runs  # type: ignore[attr-defined]
    return types.MethodType(forward, model)


def _register(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    if not hasattr(model, name):
        reference = next((parameter for parameter in model.parameters()), tensor)
        double = reference.dtype == torch.float64 and tensor.is_floating_point()
        model.register_buffer(name, tensor.to(reference.device, torch.float64 if double else tensor.dtype))


def _own_tensors(walk: Walk, left: torch.Tensor) -> torch.fx.Graph:
    """The rewritten graph, reading parameters and buffers from the module instead of taking them as inputs."""
    graph = Rewriter(walk, left).graph()
    for node in list(graph.nodes):
        # by its target: a copy of `input`, or of another name that Python has, has another name
        if node.op != "placeholder" or node.target in walk.graph.inputs:
            continue
        target = walk.graph.tensors.get(str(node.target), f"{CONSTANT}{node.target}")
        with graph.inserting_before(node):
            node.replace_all_uses_with(graph.get_attr(target))
        graph.erase_node(node)
    return graph
