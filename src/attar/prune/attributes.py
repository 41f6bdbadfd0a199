"""Attributes that a module's own code computes sizes from: found by what the captured graph says of their use."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from attar.prune.propagate import Walk
from attar.prune.rewrite import Rewriter
from attar.prune.surgery import Attributes


def joined(first: Attributes, second: Attributes) -> Attributes:
    """Both; the second's word counts where they differ."""
    return {path: {**first.get(path, {}), **second.get(path, {})} for path in {**first, **second}}


def mended_attributes(
    walks: list[Walk], left: torch.Tensor, original: Attributes, daring: int = 1
) -> Attributes:
    """Whole numbers among a module's attributes that stand, in its part of the graph, for a size which changed.

    Args:
        daring: 0 mends numbers that always stand for a size which changed; 1 also those that stand for one which did not
            elsewhere in the same module; 2 also numbers of which such a size is a small multiple.
        left: bool, by label: what is left.
        original: plain attributes as captured; a number is matched against these, never against those of now.
    """
    changes: dict[str, dict[int, set[int]]] = {}
    for walk in walks:
        rewritten = {node.name: node for node in Rewriter(walk, left).graph().nodes}
        for node in walk.graph.module.graph.nodes:
            if node.op == "call_function" and node.name in rewritten:
                for old, new in _numbers(node, rewritten[node.name]):
                    for path in _paths(node):
                        changes.setdefault(path, {}).setdefault(old, set()).add(new)
    result: Attributes = {}
    for path, found in changes.items():
        numbers = {old: new - {old} if daring else new for old, new in found.items()}
        certain = {old: next(iter(new)) for old, new in numbers.items() if len(new) == 1}
        for name, value in original.get(path, {}).items():
            mended = _mended(value, {**_parts(certain), **certain} if daring > 1 else certain)
            if mended != value:
                result.setdefault(path, {})[name] = mended
    return result


def _parts(changes: dict[int, int]) -> dict[int, int]:
    """A half, third or quarter of a size that changed, as code that writes `3 * self.dim` holds it."""
    parts: dict[int, set[int]] = {}
    for old, new in changes.items():
        for times in (2, 3, 4):
            if old % times == 0 and new % times == 0:
                parts.setdefault(old // times, set()).add(new // times)
    return {old: next(iter(new)) for old, new in parts.items() if len(new) == 1}


def _numbers(old: torch.fx.Node, new: torch.fx.Node) -> list[tuple[int, int]]:
    """Pairs of a size before and after, for the sizes of one operation."""
    if old.target is not new.target:
        outs = [v for v in tree_leaves(list(new.args)) if type(v) is int]
        ins = [v for v in tree_leaves(list(old.args)) if type(v) is int]
        return list(zip(ins, outs)) if len(ins) == len(outs) else []
    pairs = zip(tree_leaves([list(old.args), dict(old.kwargs)]), tree_leaves([list(new.args), dict(new.kwargs)]))
    return [(a, b) for a, b in pairs if type(a) is int and type(b) is int and a > 1]


def _paths(node: torch.fx.Node) -> list[str]:
    """The module whose code this is, and the modules around it."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path) for path, _ in list(stack.values())[-1:]]


def _mended(value: Any, changes: dict[int, int]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_mended(item, changes) for item in value)
    return changes.get(value, value) if type(value) is int else value
