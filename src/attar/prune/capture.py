"""Capture: the network as graphs of operations, once, in eval and in train mode (`torch.export`, before decomposition)."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map

from attar.models import exporter_quiet, in_mode
from attar.prune import trace
from attar.prune.graph import CaptureError, Graph, numbers
from attar.prune.modules import all_modules, named_tensors
from attar.prune.traced_graph import Builder
from attar.prune.undisturbed import answer_untouched, caches_apart, known_dataclasses, left_alone

Example = torch.Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


@dataclass
class Captured:
    """A network's graphs, and the names of its tensors."""

    evaluation: Graph
    training: Graph | None
    """None where the network cannot be captured in train mode; `training_error` says why."""
    aliases: dict[str, str]
    """Every name of a shared tensor -> the name under which it is known here (its first)."""
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    training_error: str = ""

    @property
    def graphs(self) -> list[Graph]:
        return [graph for graph in (self.evaluation, self.training) if graph is not None]


def split_example(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call: a tensor, a tuple or list of arguments, or a mapping of keywords."""
    if isinstance(example, torch.Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise ValueError(
        f"example_inputs is a {type(example).__name__}; give a tensor, a tuple of arguments or a dict of keywords"
    )


def capture(model: nn.Module, example: Example, quick: bool = True) -> Captured:
    """Both graphs of the network. Parameters, buffers, modes and random state are as before.

    Args:
        quick: whether a quick trace of both modes will do where it can be had.

    Raises:
        CaptureError: `torch.export` cannot follow the network's code in eval mode, or the network cannot be run with the example.
    """
    call = split_example(example)
    _check_python(model)
    sizes = [tuple(leaf.shape) for leaf in tree_leaves(call) if _batched(leaf)]
    if sizes and not any(size[0] for size in sizes):
        raise CaptureError(
            f"the example inputs hold no sample, but tensors of {sizes[0]}: give a batch of one at least"
        )
    try:
        with answer_untouched(model):
            return _captured(model, *widen(call), quick)
    except CaptureError:
        _check_runs(model, call)  # if the network does not even run, that is what the user must know
        raise


def _check_python(model: nn.Module) -> None:
    """Raise CaptureError for TorchScript, whose code is no Python that could be followed, and whose numbers cannot be mended."""
    for path, module in all_modules(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{path or 'the network'} is TorchScript ({type(module).__name__}), which attar cannot cut: give the "
                "module that it was made of, and script or trace it after"
            )


def _check_runs(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Raise CaptureError where the network itself fails with the example; it stays as it is."""
    if any(nn.parameter.is_lazy(tensor) for tensor in named_tensors(model).values()):
        raise CaptureError(
            f"{type(model).__name__} has parameters without a shape yet: run it once with the example inputs"
        )
    try:
        with in_mode(model, False), torch.no_grad(), caches_apart(model), left_alone(model):
            model(*call[0], **call[1])
    except Exception as error:
        told = " ".join(str(error).split())
        raise CaptureError(
            f"{type(model).__name__} cannot be run with the example inputs: {type(error).__name__}: {told:.500}"
        ) from None


def _captured(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], quick: bool) -> Captured:
    if quick:
        try:
            graphs = [_trace(model, arguments, keywords, training) for training in (False, True)]
            return Captured(graphs[0], graphs[1], _aliases(model), arguments, keywords)
        except Exception:  # whatever it was, torch.export says it better, or can do it
            pass
    with in_mode(model, False):
        evaluation = _export(model, arguments, keywords)
    training, problem = None, ""
    try:
        with in_mode(model, True):
            training = _export(model, arguments, keywords)
    except CaptureError as error:
        problem = str(error)
    return Captured(evaluation, training, _aliases(model), arguments, keywords, problem)


def widen(call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with a batch of two where it had one sample, so that the batch can be told from dimensions of size one."""
    leaves = [leaf for leaf in tree_leaves(call) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if leaves and all(leaf.shape[0] == 1 for leaf in leaves):
        return tree_map(lambda leaf: torch.cat([leaf, leaf]) if _batched(leaf) else leaf, call)
    return call


def _batched(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


def _trace(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], training: bool) -> Graph:
    """One graph by a quick trace. Raises where this network is not for it."""
    with in_mode(model, training), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, frees, longer = trace.run(model, arguments, keywords), [], trace.one_more(arguments, keywords)
        if longer is not None:
            (more, names), batch = longer
            frees = trace.compared(first, trace.run(model, more, names, places=False), batch)
    builder = Builder(first, frees, longer[1] if longer else 1)
    module = builder.build(named_tensors(model))
    told = numbers(tree_leaves((arguments, keywords)))
    return Graph(
        module, builder.tensors, builder.constants, tuple(builder.inputs), first.specs, False, first.asks, told
    )


def _export(model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Graph:
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
                return _export(model, arguments, keywords)
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
    with torch.no_grad():
        return known_dataclasses(model(*arguments, **keywords))


def _dynamic(forward: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """A free batch size where all tensors share their first dimension."""
    leaves = [leaf for leaf in tree_leaves((arguments, keywords)) if _batched(leaf)]
    if len({leaf.shape[0] for leaf in leaves}) != 1 or leaves[0].shape[0] < 2:
        return None
    spec = tree_map(lambda leaf: {0: torch.export.Dim.AUTO} if _batched(leaf) else None, (arguments, keywords))
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


def _aliases(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    result = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        result[name] = first.setdefault(id(tensor), name)
    return result
