"""What each of torch's operations becomes in a program for the report's page: one function for each kind.

Every function gets the translator (which adds steps) and the operation's own arguments: a `Value` is computed by the
page, a tensor is known now. Those of an operation that the page cannot run as asked raise NotRunnableError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attar.report.operations import moving, pointwise, products, windows
from attar.report.operations.moving import gathered
from attar.report.operations.pointwise import binary, reduction, unary
from attar.report.operations.steps import NotRunnableError, Operand, Steps, Value

__all__ = ["OPERATIONS", "NotRunnableError", "Operand", "Steps", "Value"]

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: unary(name) for name in ("relu", "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "exp", "sqrt")},
    **{name: unary(name) for name in ("rsqrt", "neg", "abs", "relu6", "mish", "softplus", "erf", "sin", "cos", "log")},
    "leaky_relu": unary("leaky_relu", 0.01),
    "elu": unary("elu", 1.0),
    "gelu": pointwise.gelu,
    "clamp": pointwise.clamp,
    "clamp_min": pointwise.clamp,
    "hardtanh": pointwise.hardtanh,
    "pow": pointwise.power,
    **{name: binary(name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    **{name: binary(name) for name in ("le", "lt", "ge", "gt", "eq", "ne")},
    "where": pointwise.where,
    **dict.fromkeys(
        ("dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "to", "_to_copy", "detach"),
        pointwise.same,
    ),
    "conv2d": windows.conv2d,
    "batch_norm": products.batch_norm,
    "linear": products.linear,
    "matmul": products.matmul,
    "bmm": products.matmul,
    "mm": products.matmul,
    "addmm": products.add_matmul,
    "addcmul": pointwise.addcmul,
    "square": pointwise.square,
    "stack": moving.stack,
    "roll": moving.roll,
    "linalg_vector_norm": pointwise.vector_norm,
    "conv1d": windows.conv1d,
    "convolution": windows.convolution,
    "_softmax": products.softmax,
    **{
        name: gathered(name)
        for name in ("index", "index_select", "gather", "flip", "im2col", "upsample_nearest2d", "repeat")
    },
    "scaled_dot_product_attention": products.attention,
    "softmax": products.softmax,
    "layer_norm": products.layer_norm,
    "group_norm": products.group_norm,
    "max_pool2d": windows.max_pool2d,
    "avg_pool2d": windows.avg_pool2d,
    "adaptive_avg_pool2d": windows.adaptive_avg_pool2d,
    "mean": reduction("mean"),
    "sum": reduction("sum"),
    "amax": reduction("max"),
    "cat": moving.concatenate,
    "pad": moving.pad,
    "constant_pad_nd": moving.pad,
}
"""By the name that ATen's schema gives the operation, without the `_` of those that write over their input."""
