"""Modules of a network that run their own part of the captured graph, where their code cannot follow a cut.

Attention that computes `C // heads` from what comes in cannot say that its heads got narrower than that; the rest of the network
can run its own code all the same. Such a module is exported alone, and its operations are matched with those that the
whole graph has of it, one by one, so that labels and sizes are those of the whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from attar.models import exporter_quiet, in_mode
from attar.prune.batch import longer
from attar.prune.capture import Captured
from attar.prune.export import program_graph
from attar.prune.graph import Graph, is_free, numbers
from attar.prune.modules import named_tensors
from attar.prune.nodes import hints, modules_around, operation_name
from attar.prune.propagate import Walk
from attar.prune.shipped import Running, run_again, unship
from attar.prune.surgery import Attributes, set_attributes
from attar.prune.undisturbed import answer_untouched, caches_apart, copied

Call = tuple[tuple[Any, ...], dict[str, Any]]


def capture_parts(
    model: nn.Module, attributes: Attributes, captured: Captured, walks: list[Walk], ran: Running, paths: Iterable[str]
) -> dict[str, list[Walk]]:
    """Each module's own graphs, in eval and train mode, labelled like the whole; a module that has none is absent.

    Args:
        model: the network as it is now, cut or not; it stays as it is.
        attributes: plain attributes as captured.
        walks: of the whole network.
        ran: the graphs that modules ran when it was captured.
    """
    original = as_captured(model, attributes, walks[0], ran)
    calls = _recorded(original, captured, list(paths))
    exported: dict[Any, Graph | None] = {}
    found = {}
    for path, (call, other) in calls.items():
        part, own = original.get_submodule(path), []
        for number, whole in enumerate(walks):
            nodes = [node for node in whole.calls if path in modules_around(node)]
            key = (type(part), number, _shape(nodes, whole, path))
            if key not in exported:
                exported[key] = _exported(part, call, other, training=number > 0)
            graph = exported[key]
            if graph is not None and graph.constants:
                del exported[key]  # what the code made may differ in a module alike
            own.append(None if graph is None else _labelled(graph, nodes, whole))
        if all(walk is not None for walk in own):
            found[path] = [walk for walk in own if walk is not None]
    return found


def as_captured(model: nn.Module, attributes: Attributes, walk: Walk, ran: Running) -> nn.Module:
    """A copy that runs its own code, or what `ran` of it, in the shapes of the network as captured; what was cut away is zero."""
    original = copied(model)
    unship(original, walk.tensors)
    run_again(original, ran)
    set_attributes(original, attributes)
    for name, tensor in named_tensors(original).items():
        shape = walk.tensors[name].shape if name in walk.tensors else tensor.shape
        if tensor.shape != shape:
            tensor.data = tensor.new_zeros(shape)
    return original


def _recorded(model: nn.Module, captured: Captured, paths: list[str]) -> dict[str, tuple[Call, Call]]:
    """What each module is called with, for the example's batch and for a larger one; those called once only."""
    example = (captured.arguments, captured.keywords)
    first, other = (_calls(model, call, paths) for call in (example, tree_map(longer, example)))
    return {path: (first[path][0], other[path][0]) for path in paths if len(first[path]) == len(other[path]) == 1}


def _calls(model: nn.Module, call: Call, paths: list[str]) -> dict[str, list[Call]]:
    """What each module is called with when the network is; nothing where it stops."""
    seen: dict[str, list[Call]] = {path: [] for path in paths}

    def note(path: str) -> Any:
        return lambda module, args, kwargs: seen[path].append((args, dict(kwargs)))

    hooks = [model.get_submodule(path).register_forward_pre_hook(note(path), with_kwargs=True) for path in paths]
    try:
        with torch.no_grad(), in_mode(model, False), caches_apart(model), torch.random.fork_rng(devices=[]):
            model(*call[0], **call[1])
    except Exception:
        return {path: [] for path in paths}
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _shape(nodes: list[torch.fx.Node], whole: Walk, path: str) -> tuple[Any, ...]:
    """The same for modules whose graphs are the same: operations, numbers, and where each operand is from."""
    number = {node: place for place, node in enumerate(nodes)}

    def told(item: Any) -> Any:
        if isinstance(item, torch.fx.Node):
            name = whole.graph.tensors.get(item.name, "")
            return "operand", number.get(item, name.removeprefix(path + ".") if name.startswith(path + ".") else -1)
        return repr(item)

    return tuple(
        (_seen(node), *(told(leaf) for leaf in tree_leaves([list(node.args), dict(node.kwargs)]))) for node in nodes
    )


def _labelled(graph: Graph, nodes: list[torch.fx.Node], whole: Walk) -> Walk | None:
    """A part's graph with the labels of the whole, whose `nodes` are its operations; None if they are not the same ones."""
    mine = [node for node in graph.module.graph.nodes if _computes(node)]
    if [_seen(node) for node in mine] != [_seen(node) for node in nodes]:
        return None
    walk = Walk(whole.labels, {}, graph, False)
    for own, node in zip(mine, nodes):
        walk.values[own], walk.calls[own] = whole.values[node], whole.calls[node]
    return walk


def _exported(part: nn.Module, call: Call, other: Call, training: bool) -> Graph | None:
    """The graph of one module alone; free are the sizes that another batch changes, and they must stay so."""
    leaves, spec = tree_flatten(call)
    if any(a != b for a, b in zip(numbers(leaves), numbers(tree_leaves(other)))):
        return None  # a number that follows the batch would be written into the graph
    free = [_changing(a, b) for a, b in zip(leaves, tree_leaves(other))]
    shapes = [
        {dim: torch.export.Dim.AUTO for dim in dims} if isinstance(leaf, torch.Tensor) else None
        for leaf, dims in zip(leaves, free)
    ]
    arguments, keywords = tree_unflatten(shapes, spec)
    try:
        dynamic = inspect.signature(part.forward).bind(*arguments, **keywords).arguments
        with (
            in_mode(part, training),
            answer_untouched(part),
            caches_apart(part),
            exporter_quiet(),
            torch.no_grad(),
            torch.random.fork_rng(devices=[]),
        ):
            graph = program_graph(torch.export.export(part, *call, dynamic_shapes=dynamic, strict=False))
    except Exception:
        return None
    fakes = [node.meta.get("val") for node in graph.module.graph.nodes if node.name in graph.inputs]
    for fake, dims in zip(fakes, free):
        if isinstance(fake, torch.Tensor) and not all(is_free(fake.shape[dim]) for dim in dims):
            return None
    return graph


def _changing(first: Any, second: Any) -> list[int]:
    if not isinstance(first, torch.Tensor):
        return []
    return [dim for dim, (a, b) in enumerate(zip(first.shape, second.shape)) if a != b]


def _computes(node: torch.fx.Node) -> bool:
    """Whether a node is an operation on tensors, as `Walk.calls` has them."""
    return node.op == "call_function" and operation_name(node.target) != "getitem" and bool(hints(node.meta.get("val")))


def _seen(node: torch.fx.Node) -> tuple[Any, ...]:
    return operation_name(node.target), *hints(node.meta.get("val"))
