"""Which of torch's operations a file may name: arithmetic on tensors, nothing that reaches beyond them. Below all rooms."""

from __future__ import annotations

import re

import torch

NAME = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
KIND = re.compile(r"((Optional|List)\[)*(Tensor|number|int|float|complex|bool|str|Device|Generator)\]*")
BEYOND = re.compile(r"file|path|save|sparse|nested|reshape_alias")
"""Files; and tensors with indices or strides of their own, which torch does not hold against their memory."""
OF_SIZES = frozenset({"_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"})
"""Operations without tensors that exported networks hold."""


def operation_named(name: str) -> torch._ops.OpOverload:
    """The operation that a file calls `torch.ops.aten.NAME.OVERLOAD`, if its schema says that it computes with tensors only.

    Raises:
        ValueError: there is none, or it could read or write something else: a file, torch's state, memory not its own.
    """
    match = NAME.fullmatch(name)
    found = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{name!r:.100} is no operation of torch")
    if not _computes(found._schema):
        raise ValueError(f"{name!r:.100} is no tensor operation that a file may name")
    return found


def _computes(schema: torch.FunctionSchema) -> bool:
    name = schema.name.removeprefix("aten::")
    if name in OF_SIZES:
        return True
    takes = [str(argument.type) for argument in schema.arguments]
    gives = [str(result.type) for result in schema.returns]
    texts = [argument.name for argument in schema.arguments if "str" in str(argument.type)]
    writes = any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments)
    return (
        all(KIND.fullmatch(kind) for kind in takes + gives)
        and any("Tensor" in kind for kind in (takes if texts else takes + gives))
        and not any(BEYOND.search(word) for word in (name, *texts))
        and not (writes and name.startswith("_"))  # a part of one that has checked the shapes
    )
