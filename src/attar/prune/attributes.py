"""Attributes that a module's own code computes sizes from: found by what the captured graph says of their use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from attar.prune.call import leaves
from attar.prune.families import LAYER_NORMS
from attar.prune.labels import Value
from attar.prune.modules import all_modules
from attar.prune.propagate import Walk
from attar.prune.rewrite import Rewriter
from attar.prune.surgery import Attributes

WHOLE = re.compile(
    r"(^|_)n?heads$|^nhead$|^num_head$|groups|stride|kernel|window|patch|grid|ratio|depth|dilation|padding|resolution|img|image"
)
"""Names of numbers that a cut never changes: rows such as heads stay whole, and so do places and windows."""


def joined(first: Attributes, second: Attributes) -> Attributes:
    """Both; the second's word counts where they differ."""
    return {path: {**first.get(path, {}), **second.get(path, {})} for path in {**first, **second}}


DARING = (1, 2, 0)
"""How daringly a class's numbers are mended: 0 mends numbers that always stand for a size which changed; 1 also those that
stand for one which did not elsewhere in the same module; 2 also lengths that its operations see, and small multiples and parts
of all these."""

PART, BY_USE, BY_VALUE = len(DARING), len(DARING) + 1, len(DARING) + 2
"""More levels: modules of the class run their part of the captured graph; and, tried before that, numbers are mended by what the
code is seen to use them for, others as at first. At first a number that several attributes hold, or that also stands for a size
which did not change, is mended only in attributes that the code is seen to use so; by value, in all of them."""
ORDER = (0, BY_VALUE, 1, 2, BY_USE, PART)
Origin = tuple[str, str, int]
"""(module path, attribute, place in it; -1 where it is a number itself)."""
Used = tuple[Mapping[Origin, int], Collection[Origin]]
"""What attributes must be by their uses, and those of which this cannot be told; all others changed nothing."""
Levels = dict[str, int]
"""Class of modules -> its place in `DARING`, `BY_VALUE`, `BY_USE` or `PART`; absent classes are at the first."""


def class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
"""torch's own layers that may keep numbers about channels and no tensor that tells them."""


class NumberPlaces:
    """Where the numbers of a network's modules may stand in the operations of their code: the same for every cut.

    Args:
        walks: of the network's graphs.
        model: the network, cut or not.
        original: plain attributes as captured; a number is matched against these, never against those of now.
    """

    def __init__(self, walks: list[Walk], model: nn.Module, original: Attributes) -> None:
        self.walks, self.original = walks, original
        modules = all_modules(model)
        self.classes = {path: class_name(module) for path, module in modules.items()}
        held = {
            path: sizes for path, module in modules.items() if (sizes := _sizes_held(module, original.get(path, {})))
        }
        known: set[Any] = set()  # train mode mostly does what eval mode does, and need not be asked again
        self._operations = [
            [
                (node, path, any(number in held[path] for number in _whole_numbers(node)))
                for node in walk.graph.module.graph.nodes
                if node.op == "call_function"
                for path in _paths(node)
                if path in held and _new(known, path, node, walk)
            ]
            for walk in walks
        ]
        bare = {p for p, m in modules.items() if isinstance(m, NORMS) and not [*m.parameters(), *m.buffers()]}
        self.bare_norms = [
            {node: path for node in walk.calls for path in _paths(node) if path in bare} for walk in walks
        ]
        """Of each walk, the operations of norms without tensors, and the paths of these."""

    def operations(self, number: int, daring: Mapping[str, int]) -> dict[torch.fx.Node, list[str]]:
        """Operations of a walk that tell what became of a number, and the modules whose code they are.

        Of daring modules these are all, since lengths that an operation sees count there.
        """
        found: dict[torch.fx.Node, list[str]] = {}
        for node, path, told in self._operations[number]:
            if told or daring.get(path, 0) > 1:
                found.setdefault(node, []).append(path)
        return found


def mended_attributes(
    places: NumberPlaces, left: torch.Tensor, levels: Levels, used: Callable[[], Used | None]
) -> Attributes:
    """Whole numbers among a module's attributes that stand, in its part of the graph, for a size which changed.

    Args:
        left: bool, by label: what is left.
        used: what attributes must be by their uses, where that can be told; asked only where it counts.
    """
    daring = {path: (*DARING, 0, DARING[0], DARING[0])[levels.get(name, 0)] for path, name in places.classes.items()}
    changes: dict[str, dict[int, set[int]]] = {}
    for number, walk in enumerate(places.walks):
        inside = places.operations(number, daring)
        for node, anew in Rewriter(walk, left).alone(inside):
            pairs, seen = _numbers(node, anew), None
            for path in inside[node]:
                if daring.get(path, 0) > 1:
                    seen = _lengths(walk, node, left) if seen is None else seen
                for old, new in [*pairs, *(seen or [])]:
                    changes.setdefault(path, {}).setdefault(old, set()).add(new)
    result = _bare_norms(places, left)
    doubtful: dict[Origin, int] = {}
    for path, found in changes.items():
        level = daring.get(path, 0)
        numbers = {old: new - {old} if level else new for old, new in found.items()}
        certain = {old: next(iter(new)) for old, new in numbers.items() if len(new) == 1}
        own = {name: value for name, value in places.original.get(path, {}).items() if not WHOLE.search(name)}
        for name, value in own.items():
            mended = _mended(value, {**_parts(certain), **certain} if level > 1 else certain)
            if mended != value:
                result.setdefault(path, {})[name] = mended
        if not levels.get(places.classes[path], 0):
            doubtful |= _doubtful(path, own, certain, found)
    told = used() if doubtful or BY_USE in levels.values() else None
    if told is not None:
        by_use = {o: n for o, n in told[0].items() if o in doubtful or levels.get(places.classes[o[0]], 0) == BY_USE}
        unseen = {o: n for o, n in doubtful.items() if o not in told[0] and o not in told[1]}
        for (path, name, place), number in {**by_use, **unseen}.items():
            mended = result.get(path, {}).get(name, places.original[path][name])
            if isinstance(mended, tuple | list):
                mended = type(mended)([*mended[:place], number, *mended[place + 1 :]])
            else:
                mended = number
            result.setdefault(path, {})[name] = mended
    return result


def _doubtful(
    path: str, own: Mapping[str, Any], certain: Mapping[int, int], found: Mapping[int, set[int]]
) -> dict[Origin, int]:
    """Numbers to be mended that several attributes hold, or that also stand for a size which did not change, as they were."""
    slots: dict[Origin, int] = {}
    for name, value in own.items():
        many = isinstance(value, tuple | list)
        slots |= {
            (path, name, place if many else -1): number
            for place, number in enumerate(value if many else [value])
            if type(number) is int and number in certain
        }
    times = Counter(slots.values())
    return {origin: number for origin, number in slots.items() if times[number] > 1 or number in found[number]}


def _bare_norms(places: NumberPlaces, left: torch.Tensor) -> Attributes:
    """What norms without tensors say about channels, if that changed; one that is used on several widths is left as it is."""
    told: dict[str, list[dict[str, Any]]] = {}
    for walk, norms in zip(places.walks, places.bare_norms):
        rewriter = Rewriter(walk, left)
        for node, anew in rewriter.alone(norms):
            call = walk.calls[node]
            if call.name in LAYER_NORMS:
                values: dict[str, Any] = {"normalized_shape": tuple(cast("Any", anew.args[1]))}
            elif call.name == "group_norm":
                values = {"num_groups": anew.args[1], "num_channels": rewriter.length(call.args[0], 1)}
            else:
                values = {"num_features": rewriter.length(call.args[0], 1)}
            told.setdefault(norms[node], []).append(values)
    return {
        path: {name: value for name, value in first.items() if value != places.original[path].get(name, value)}
        for path, (first, *others) in told.items()
        if all(other == first for other in others)
    }


def numbers_by_use(model: nn.Module, original: Attributes) -> Attributes:
    """The attributes that may have to be mended by their use."""
    return {
        path: {name: value for name, value in original[path].items() if not WHOLE.search(name)}
        for path, module in all_modules(model).items()
        if _sizes_held(module, original.get(path, {}))
    }


def bolder(levels: Levels, chain: list[nn.Module]) -> Levels | None:
    """The next way to mend the innermost class of a chain of modules that has one left; None if none has.

    The outermost module is the network: it is no part of itself.
    """
    for module in reversed(chain):
        name = class_name(module)
        left = [
            level for level in ORDER[ORDER.index(levels.get(name, 0)) + 1 :] if level != PART or module is not chain[0]
        ]
        own = not name.startswith("torch.nn.") or isinstance(module, nn.MultiheadAttention)
        if own and left:
            return {**levels, name: left[0]}
    return None


def part_paths(model: nn.Module, levels: Levels) -> list[str]:
    """The outermost modules of the classes that run their part of the captured graph."""
    found: list[str] = []
    if PART not in levels.values():
        return found
    for path, module in model.named_modules():
        inside = any(path.startswith(outer + ".") for outer in found)
        if path and not inside and levels.get(class_name(module), 0) == PART:
            found.append(path)
    return found


@contextmanager
def calls_noted() -> Iterator[list[nn.Module]]:
    """The chain of modules that are running, outermost first; left as it was where an error was raised."""
    chain: list[nn.Module] = []

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        while chain and chain.pop() is not module:
            pass

    hooks = [
        register_module_forward_pre_hook(lambda module, inputs: chain.append(module)),
        register_module_forward_hook(leave),
    ]
    try:
        yield chain
    finally:
        for hook in hooks:
            hook.remove()


def _sizes_held(module: nn.Module, original: Mapping[str, Any]) -> set[int]:
    """Sizes that a module's own numbers may stand for; none for torch's own layers, whose numbers follow their weights."""
    if class_name(module).startswith("torch.nn.") and not isinstance(module, nn.MultiheadAttention):
        return set()
    values = [value for name, value in original.items() if not WHOLE.search(name)]
    return {number for number in leaves(values) if type(number) is int and number > 1}


def _new(known: set[Any], path: str, node: torch.fx.Node, walk: Walk) -> bool:
    """Whether no operation is known of the same numbers and the same labels, which any cut makes the same of; then it is."""
    call, made = walk.calls.get(node), walk.values[node]
    if call is None or any(value.known is not None for value in call.values):
        return True
    values = [
        value for value in [*call.values, *(made if isinstance(made, list) else [made])] if isinstance(value, Value)
    ]
    labels = [
        (
            value.shape,
            bool(value.source),
            *((plane.cut, plane.ids.shape, plane.ids.numpy().tobytes()) for plane in value.planes),
        )
        for value in values
    ]
    told = ["" if isinstance(leaf, torch.fx.Node) else repr(leaf) for leaf in leaves((node.args, node.kwargs))]
    look = (path, node.target, *told, *labels)
    if look in known:
        return False
    known.add(look)
    return True


def _whole_numbers(node: torch.fx.Node) -> list[int]:
    return [leaf for leaf in leaves((node.args, node.kwargs)) if type(leaf) is int]


def _parts(changes: dict[int, int]) -> dict[int, int]:
    """A half, third, quarter or double of a size that changed, as code that writes `3 * self.dim` or `self.dim // 2` holds it."""
    parts: dict[int, set[int]] = {}
    for old, new in changes.items():
        for times in (2, 3, 4):
            if old % times == 0 and new % times == 0:
                parts.setdefault(old // times, set()).add(new // times)
        parts.setdefault(2 * old, set()).add(2 * new)
    return {old: next(iter(new)) for old, new in parts.items() if len(new) == 1}


def _numbers(old: torch.fx.Node, new: torch.fx.Node) -> list[tuple[int, int]]:
    """Pairs of a size before and after, for the sizes of one operation."""
    if old.target is not new.target:  # chunk(2) became a split by size
        outs = [v for v in leaves(new.args) if type(v) is int]
        ins = [v for v in leaves(old.args) if type(v) is int]
        return list(zip(ins, outs)) if len(ins) == len(outs) else []
    pairs = zip(leaves((old.args, old.kwargs)), leaves((new.args, new.kwargs)))
    return [(a, b) for a, b in pairs if type(a) is int and type(b) is int and a > 1]


def _lengths(walk: Walk, node: torch.fx.Node, left: torch.Tensor) -> list[tuple[int, int]]:
    """Lengths, before and after, of what goes into an operation, along dimensions that lose units."""
    found = []
    for source in node.all_input_nodes:
        value = walk.values[source]
        for plane in value.planes if isinstance(value, Value) and not value.source else ():
            found.append((value.shape[plane.cut], int(left[plane.row_matrix()[0]].sum())))
    return found


def _paths(node: torch.fx.Node) -> list[str]:
    """The module whose code this is, and the modules around it."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path) for path, _ in list(stack.values())[-1:]]


def _mended(value: Any, changes: dict[int, int]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_mended(item, changes) for item in value)
    return changes.get(value, value) if type(value) is int else value
