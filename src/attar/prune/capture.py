"""Capture: the network as graphs of operations, once, in eval and in train mode: by a quick trace, or by `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from attar.models import in_mode
from attar.prune import trace
from attar.prune.batch import batched
from attar.prune.export import export
from attar.prune.graph import CaptureError, Graph, numbers
from attar.prune.modules import all_modules, named_tensors
from attar.prune.traced_graph import Builder
from attar.prune.undisturbed import answer_untouched, caches_apart, left_alone

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
    sizes = [tuple(leaf.shape) for leaf in tree_leaves(call) if batched(leaf)]
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
        evaluation = export(model, arguments, keywords)
    training, problem = None, ""
    try:
        with in_mode(model, True):
            training = export(model, arguments, keywords)
    except CaptureError as error:
        problem = str(error)
    return Captured(evaluation, training, _aliases(model), arguments, keywords, problem)


def widen(call: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with a batch of two where it had one sample, so that the batch can be told from dimensions of size one."""
    leaves = [leaf for leaf in tree_leaves(call) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if leaves and all(leaf.shape[0] == 1 for leaf in leaves):
        return tree_map(lambda leaf: torch.cat([leaf, leaf]) if batched(leaf) else leaf, call)
    return call


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


def _aliases(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    result = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        result[name] = first.setdefault(id(tensor), name)
    return result
