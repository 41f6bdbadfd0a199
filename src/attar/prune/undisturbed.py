"""Looking at a network and running it in ways that leave it as it was, or on a copy."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves

from attar.prune.modules import all_modules, cards_of

OWN = frozenset(vars(nn.Module()))
"""What every module holds for torch."""
CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; also of a network that holds what its code computed last, as torch's older weight norm does.

    Raises:
        ValueError: something in it cannot be copied.
    """
    held = _tensors_in([vars(module) for module in model.modules()])
    answers = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, dict(answers))
    except Exception as error:
        told = " ".join(str(error).split())
        raise ValueError(
            f"{type(model).__name__} cannot be copied, which proving a cut and saving take: {_uncopied(model, answers)}"
            f"{type(error).__name__}: {told:.300}"
        ) from None


def _tensors_in(container: Any) -> list[torch.Tensor]:
    """Those in nested lists, tuples, deques, sets and dictionaries, which may hold themselves."""
    found: list[torch.Tensor] = []
    waiting, seen = [container], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, list | tuple | dict | deque | set | frozenset) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, dict) else item
    return found


def _uncopied(model: nn.Module, answers: dict[int, torch.Tensor]) -> str:
    """The attribute that stops a copy, for a message; of the innermost module that has one."""
    for path, module in reversed(all_modules(model).items()):
        for name, value in vars(module).items():
            if name == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(answers))
            except Exception:
                return f"attribute {name!r} of {path or 'the network'} ({type(value).__name__}) stands in the way; "
    return ""


@contextmanager
def answer_untouched(model: nn.Module) -> Iterator[None]:
    """Without the hooks on a module's answer: where its forward is a graph they are run all the same, once."""
    hooks = model._forward_hooks.copy()
    model._forward_hooks.clear()
    try:
        yield
    finally:
        model._forward_hooks.update(hooks)


@contextmanager
def caches_apart(model: nn.Module) -> Iterator[None]:
    """What the code of modules keeps in containers of theirs, from one forward to the next, is as before after this."""
    before = {
        module: {name: item for name, item in vars(module).items() if type(item) in CONTAINERS and name not in OWN}
        for module in model.modules()
    }
    for module, held in before.items():
        vars(module).update({name: copy.copy(item) for name, item in held.items()})
    try:
        yield
    finally:
        for module, held in before.items():
            vars(module).update(held)


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Buffers are copies inside, and everything that modules hold is put back after; so are random states and switches."""
    modules = list(model.modules())
    before = [(vars(m).copy(), m._buffers.copy(), m._parameters.copy()) for m in modules]
    copies: dict[int, torch.Tensor] = {}
    fast = torch.backends.mha.get_fastpath_enabled()
    compiling, exporting = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    try:
        for module in modules:
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        torch.backends.mha.set_fastpath_enabled(False)
        torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = True
        with torch.random.fork_rng(devices=cards_of(model)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = compiling, exporting
        for module, (attributes, buffers, parameters) in zip(modules, before):
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._parameters.clear()
            module._parameters.update(parameters)


@contextmanager
def paths_noted(model: nn.Module, stack: list[tuple[str, str]]) -> Iterator[None]:
    """`stack` holds the modules that are running, outermost first."""
    paths: dict[int, tuple[str, str]] = {}
    for path, module in all_modules(model).items():
        paths.setdefault(id(module), (path, type(module).__qualname__))

    def enter(module: nn.Module, inputs: Any) -> None:
        stack.append(paths.get(id(module), ("", type(module).__qualname__)))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def known_dataclasses(found: Any) -> bool:
    """Tell torch how to take apart the dataclasses in a network's answer, as `torch.export` asks of their authors.

    Returns whether there were any that it did not know.
    """
    kinds = {type(leaf) for leaf in tree_leaves(found) if dataclasses.is_dataclass(leaf)}
    for kind in kinds:
        torch.export.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
    if kinds:
        known_dataclasses(found)
    return bool(kinds)
