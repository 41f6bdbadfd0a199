"""A captured graph as plain JSON, and back: only torch's own operations can be named, and nothing in the file is run as code."""

from __future__ import annotations

import keyword
import math
import operator
import unicodedata
from collections.abc import Callable
from typing import Any

import torch

from attar.operations import check_arguments, operation_named

LARGEST_SIZE = 2**63 - 1
"""No size is beyond this; without a bound, a file could have integers computed that fill the memory."""


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, for tensors and numbers only, and for integers no larger than sizes are; else ValueError."""

    def bounded(*operands: Any) -> Any:
        if any(isinstance(operand, str | list | tuple) for operand in operands):
            raise ValueError(f"the captured graph calculates with {operands!s:.100}, which are no numbers")
        whole = all(isinstance(operand, int) for operand in operands)
        if function is operator.pow and whole and (abs(operands[0]) - 1).bit_length() * operands[1] > 63:
            raise ValueError("the captured graph takes an integer to a power beyond any size")
        result = function(*operands)
        if isinstance(result, int) and abs(result) > LARGEST_SIZE:
            raise ValueError(f"the captured graph calculates an integer above {LARGEST_SIZE:,}")
        return result

    bounded.__name__ = function.__name__  # the name that the graph's code gives it
    return bounded


ARITHMETIC = {
    f"operator.{function.__name__}": function
    for function in (
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.truediv,
        operator.mod,
        operator.neg,
        operator.pow,
    )
}
OTHERS = {
    f"operator.{function.__name__}": function
    for function in (operator.getitem, operator.eq, operator.lt, operator.le, operator.gt, operator.ge)
} | {"torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min, "math.ceil": math.ceil, "math.floor": math.floor}
WRITTEN = ARITHMETIC | OTHERS
"""Functions of sizes that a graph may hold beside torch's operations."""
READ = {name: _bounded(function) for name, function in ARITHMETIC.items()} | OTHERS
"""What is run in their place where a file names them."""
KINDS = {
    "dtype": (torch.dtype, lambda name: getattr(torch, name)),
    "layout": (torch.layout, lambda name: getattr(torch, name)),
    "memory_format": (torch.memory_format, lambda name: getattr(torch, name)),
    "device": (torch.device, torch.device),
}


def write_graph(graph: torch.fx.Graph) -> list[dict[str, Any]]:
    """One entry for each node.

    Raises:
        ValueError: the graph holds an operation that is not torch's.
    """
    return [
        {
            "name": node.name,
            "op": node.op,
            "target": _target_name(node),
            "args": _write(node.args),
            "kwargs": _write(dict(node.kwargs)),
        }
        for node in graph.nodes
    ]


def read_graph(entries: Any) -> torch.fx.Graph:
    """The graph again.

    Raises:
        ValueError: an entry is malformed, or names something that is not an operation of torch.
    """
    graph = torch.fx.Graph()
    places: dict[str, torch.fx.Node] = {}
    inputs = {"self"}
    try:
        for entry in entries:
            target = _target(entry["op"], entry["target"])
            args, kwargs = _read(entry["args"], places), _read(entry["kwargs"], places)
            twice = entry["name"] in places or (entry["op"] == "placeholder" and target in inputs)
            if twice or not _is_name(entry["name"]):
                raise ValueError(f"{entry['name']!r} is no name, or given twice")
            if entry["op"] == "placeholder":
                inputs.add(target)
            if isinstance(target, torch._ops.OpOverload):
                check_arguments(target, {**dict(zip((a.name for a in target._schema.arguments), args)), **kwargs})
            places[entry["name"]] = graph.create_node(entry["op"], target, tuple(args), kwargs, entry["name"])
    except (KeyError, TypeError, AttributeError, IndexError) as problem:
        raise ValueError(f"the description's graph cannot be read: {type(problem).__name__}: {problem}") from None
    return graph


def _target_name(node: torch.fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
        return str(node.target)
    for name, function in (*WRITTEN.items(), *READ.items()):
        if function is node.target:
            return name
    raise ValueError(f"the graph holds {node.target}, which cannot be written down")


def _target(kind: str, name: str) -> Any:
    if kind in ("placeholder", "output", "get_attr"):
        good = all(map(_is_attribute, name.split("."))) if kind == "get_attr" else _is_name(name)
        if not good:
            raise ValueError(f"the description's graph has the name {name!r}")
        return name
    if kind != "call_function":
        raise ValueError(f"the description's graph has a node of kind {kind!r}")
    if name in READ:
        return READ[name]
    return operation_named(f"torch.ops.{name}")


def _is_name(word: str) -> bool:
    """Whether Python takes the word for a name, and for no other name: it normalises what it reads."""
    return word.isidentifier() and not keyword.iskeyword(word) and unicodedata.is_normalized("NFKC", word)


def _is_attribute(word: str) -> bool:
    """Whether the word may name a tensor or module, also one in a list; never what Python itself keeps there."""
    return word.isdecimal() or (_is_name(word) and not word.startswith("__"))


def _write(item: Any) -> Any:
    if isinstance(item, torch.fx.Node):
        return {"node": item.name}
    if isinstance(item, list | tuple):
        return [_write(part) for part in item]
    if isinstance(item, dict):
        return {"dict": {key: _write(part) for key, part in item.items()}}
    for kind, (cls, _) in KINDS.items():
        if isinstance(item, cls):
            return {kind: str(item).removeprefix("torch.")}
    if isinstance(item, float) and not math.isfinite(item):
        return {"float": str(item)}
    if item is None or isinstance(item, bool | int | float | str):
        return item
    raise ValueError(f"the graph holds a {type(item).__name__}, which cannot be written down")


def _read(item: Any, places: dict[str, torch.fx.Node]) -> Any:
    if isinstance(item, list):
        return [_read(part, places) for part in item]
    if isinstance(item, dict):
        ((kind, value),) = item.items()
        if kind == "node":
            return places[value]
        if kind == "dict":
            if bad := [key for key in value if not _is_name(key)]:
                raise ValueError(f"{bad[0]!r} is no name of an argument")
            return {key: _read(part, places) for key, part in value.items()}
        if kind == "float":
            return float(value)
        cls, make = KINDS[kind]
        found = make(value)
        if not isinstance(found, cls):
            raise ValueError(f"{value!r} is no {kind}")
        return found
    return item
