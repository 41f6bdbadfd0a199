"""Functions of each element alone, and of many into one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from attar.report.operations.steps import Operand, Steps, Value, need

NO_MORE = {"softplus": (1, 20), "elu": (1, 1)}
"""Further arguments of functions, as they are unless a network says otherwise."""


def unary(name: str, *defaults: float) -> Callable[..., Value]:
    """A function of each element alone, with up to two numbers."""

    def operation(to: Steps, x: Value, *args: Any, **kwargs: Any) -> Value:
        given = [*args, *kwargs.values()]
        beyond = tuple(given[len(defaults) :])
        need(beyond == NO_MORE.get(name, ())[: len(beyond)], f"{name} with arguments {beyond}")
        numbers = [float(v) if isinstance(v, int | float) else d for v, d in zip([*given, *defaults], defaults)]
        return to.step("unary", [x], x.shape, f=name, p=[*numbers, 0.0, 0.0][:2])

    return operation


def gelu(to: Steps, x: Value, approximate: str = "none") -> Value:
    return to.step("unary", [x], x.shape, f="gelu" if approximate == "none" else "gelu_tanh", p=[0.0, 0.0])


def clamp(to: Steps, x: Value, min: float | None = None, max: float | None = None) -> Value:
    low, high = (-3.4e38 if min is None else min), (3.4e38 if max is None else max)
    need(isinstance(low, int | float) and isinstance(high, int | float), "clamp between tensors")
    return to.step("unary", [x], x.shape, f="clamp", p=[float(low), float(high)])


def hardtanh(to: Steps, x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    return clamp(to, x, min_val, max_val)


def square(to: Steps, x: Value) -> Value:
    return power(to, x, 2.0)


def power(to: Steps, x: Value, exponent: float) -> Value:
    need(isinstance(exponent, int | float), "power of a tensor")
    return to.step("unary", [x], x.shape, f="pow", p=[float(exponent), 0.0])


def binary(name: str) -> Callable[..., Value]:
    """A function of two elements, with broadcasting."""

    def operation(to: Steps, a: Operand, b: Operand, *, alpha: float = 1.0) -> Value:
        need(alpha == 1, "sum with a factor")
        first, second = to.value(a), to.value(b)
        shape = torch.broadcast_shapes(first.shape, second.shape)
        strides = [torch.empty(v.shape, device="meta").expand(shape).stride() for v in (first, second)]
        return to.step("binary", [first, second], shape, f=name, sa=list(strides[0]), sb=list(strides[1]))

    return operation


def where(to: Steps, condition: Operand, a: Operand, b: Operand) -> Value:
    """`a` where the condition is not 0, else `b`, with broadcasting."""
    values = [to.value(operand) for operand in (condition, a, b)]
    shape = torch.broadcast_shapes(*(value.shape for value in values))
    return to.step("where", [to.view(torch.ops.aten.expand.default, v, list(shape)) for v in values], shape)


def addcmul(to: Steps, x: Operand, a: Operand, b: Operand, *, value: float = 1) -> Value:
    product = binary("mul")(to, a, b)
    return binary("add")(to, x, product if value == 1 else binary("mul")(to, product, value))


def same(to: Steps, x: Value, *args: Any, **kwargs: Any) -> Value:
    """What changes nothing when a network only predicts."""
    dtype = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)), torch.float32)
    need(dtype == torch.float32, f"numbers of type {dtype}")
    return x


def reduction(name: str) -> Callable[..., Value]:
    """Mean, sum or largest over some dimensions."""

    def operation(to: Steps, x: Value, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
        every = range(len(x.shape))
        over = [d % len(x.shape) for d in ([dim] if isinstance(dim, int) else (dim or every))]
        kept = [d for d in every if d not in over]
        moved = to.view(torch.ops.aten.permute.default, x, kept + sorted(over))
        size = math.prod(x.shape[d] for d in over)
        shape = [1 if d in over else x.shape[d] for d in every if keepdim or d in kept]
        return to.step("reduce", [moved], shape, f=name, size=size)

    return operation


def vector_norm(to: Steps, x: Value, order: float = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    need(order == 2, f"norm of order {order}")
    return unary("sqrt")(to, reduction("sum")(to, power(to, x, 2.0), dim, keepdim))
