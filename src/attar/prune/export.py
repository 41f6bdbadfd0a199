"""The graph of a network by `torch.export`, before decomposition; regions that only switch a mode are written out."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map

from attar.models import exporter_quiet
from attar.prune.batch import batched
from attar.prune.graph import CaptureError, Graph, numbers
from attar.prune.undisturbed import caches_apart, known_dataclasses, left_alone


def export(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Graph:
    """The graph in the mode that the network is in, with a free batch where that can be had.

    Raises:
        CaptureError: `torch.export` cannot follow the network's code.
    """
    problems = []
    random = torch.random.get_rng_state()
    for dynamic in (True, False):
        shapes = _dynamic(model.forward, arguments, keywords) if dynamic else None
        try:
            with exporter_quiet(), torch.no_grad(), caches_apart(model):
                program = torch.export.export(model, arguments, keywords, dynamic_shapes=shapes, strict=False)
            return program_graph(program)
        except Exception as error:
            if "register a pytree" in str(error) and not model.training and _answer_known(model, arguments, keywords):
                return export(model, arguments, keywords)
            problems.append(
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            )
        finally:
            torch.random.set_rng_state(random)
    mode = "train" if model.training else "eval"
    raise CaptureError(
        f"{type(model).__name__} cannot be captured in {mode} mode ({problems[0]}); "
        "torch.export must be able to follow its code with the example inputs"
    )


def _answer_known(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Tell torch of the dataclasses that the network answers with; whether there were any new ones."""
    with torch.no_grad(), caches_apart(model), left_alone(model):
        return known_dataclasses(model(*arguments, **keywords))


def _dynamic(forward: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """A free batch size where all tensors share their first dimension."""
    leaves = [leaf for leaf in tree_leaves((arguments, keywords)) if batched(leaf)]
    if len({leaf.shape[0] for leaf in leaves}) != 1 or leaves[0].shape[0] < 2:
        return None
    spec = tree_map(lambda leaf: {0: torch.export.Dim.AUTO} if batched(leaf) else None, (arguments, keywords))
    if not keywords:
        return spec[0]
    return inspect.signature(forward).bind(*spec[0], **spec[1]).arguments


def program_graph(program: Any) -> Graph:
    """What attar needs of an exported program."""
    tensors, constants, inputs = {}, {}, []
    for spec in program.graph_signature.input_specs:
        name = getattr(spec.arg, "name", "")
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            tensors[name] = spec.target
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            constants[name] = program.constants[spec.target]
        elif spec.kind == InputKind.USER_INPUT:
            inputs.append(name)
    module = inline(program.graph_module)
    for node in reversed(module.graph.nodes):
        if "_assert" in str(node.target) and not node.users:
            module.graph.erase_node(node)
    specs = (program.call_spec.in_spec, program.call_spec.out_spec)
    return Graph(module, tensors, constants, tuple(inputs), specs, numbers=numbers(tree_leaves(program.example_inputs)))


def inline(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Regions that only switch a mode (no_grad, autocast, checkpointing) replaced by the operations inside them."""
    wrapped = [node for node in module.graph.nodes if node.op == "call_function" and _wrapper(node) is not None]
    if not wrapped:
        return module
    module = copy.copy(module)
    for node in wrapped:
        start = _wrapper(node)
        assert start is not None
        body = inline(getattr(module, node.args[start].target))
        operands = node.args[start + 1 :]
        places: dict[torch.fx.Node, Any] = dict(
            zip([inner for inner in body.graph.nodes if inner.op == "placeholder"], operands)
        )
        with module.graph.inserting_before(node):
            for inner in body.graph.nodes:
                if inner.op == "call_function":
                    places[inner] = module.graph.node_copy(inner, places.__getitem__)
                elif inner.op == "output":
                    results = tree_map(lambda old, places=places: places.get(old, old), inner.args[0])
        _replace_items(node, results)
        region = node.args[start]
        module.graph.erase_node(node)
        if not region.users:
            module.graph.erase_node(region)
    return module


def _wrapper(node: torch.fx.Node) -> int | None:
    """The place of the wrapped region among the arguments of a node that only wraps one, or None."""
    if not str(getattr(node.target, "name", lambda: "")()).startswith(
        ("wrap_with", "wrap_activation", "tag_activation")
    ):
        return None
    return next((i for i, a in enumerate(node.args) if isinstance(a, torch.fx.Node) and a.op == "get_attr"), None)


def _replace_items(node: torch.fx.Node, results: Any) -> None:
    if isinstance(results, torch.fx.Node):
        node.replace_all_uses_with(results)
        return
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        user.graph.erase_node(user)
