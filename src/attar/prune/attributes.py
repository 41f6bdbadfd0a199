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
    walks: list[Walk], left: torch.Tensor, original: Attributes, bold: bool = True
) -> Attributes:
    """Whole numbers among a module's attributes that stand, in its part of the graph, for a size which changed.

    Args:
        bold: also mend numbers that stand for a size which did not change somewhere else in the same module.
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
        numbers = {old: new - {old} if bold else new for old, new in found.items()}
        certain = {old: next(iter(new)) for old, new in numbers.items() if len(new) == 1}
        for name, value in original.get(path, {}).items():
            mended = _mended(value, certain)
            if mended != value:
                result.setdefault(path, {})[name] = mended
    return result


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
