"""Grouped convolutions at full speed under bf16 autocast on a CPU: in float32 where bfloat16 has no kernel worth the name.

oneDNN (torch 2.13's, on a processor with AVX-512 for bfloat16) has fast kernels in bfloat16 for 3x3 depthwise convolutions of
stride 1, and for groups of many channels. The gradients of other depthwise convolutions, and groups of few channels, it gives to
kernels made for dense ones (`brgconv_strided`, `jit_bf16` in its log): a step of a 3x3 depthwise convolution of stride 2 over 32
channels of 28x28 took 50 ms in bfloat16, and 7 ms in float32, both conversions included. benchmarks/grouped_step.py measures it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from attar.train.forwards import computes_as, forwards_set

_NARROW = 4  # channels of a group: below, and in steps of it under strides, bfloat16 was the slower one (measured)


def slow_in_bf16(convolution: nn.Conv2d) -> bool:
    """Whether a training step of this convolution takes longer in bfloat16 than in float32 with both conversions."""
    channels = convolution.in_channels // convolution.groups
    if convolution.groups == 1:
        return False
    strided = max(convolution.stride) > 1
    if channels == 1 and convolution.out_channels == convolution.groups:  # depthwise
        return strided or max(convolution.kernel_size) > 3
    return channels < _NARROW or (strided and channels % _NARROW != 0)


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` does, in float32 where autocast would compute in bfloat16 on a CPU."""
    if (
        type(x) is not Tensor
        or x.device.type != "cpu"
        or not torch.is_autocast_enabled("cpu")
        or torch.get_autocast_dtype("cpu") != torch.bfloat16
        or self.weight.dtype != torch.float32
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    ):
        return nn.Conv2d.forward(self, x)
    with torch.autocast("cpu", enabled=False):
        return nn.Conv2d.forward(self, x.float()).to(torch.bfloat16)


def fast_groups(model: nn.Module) -> AbstractContextManager[int]:
    """Let the grouped Conv2d modules of `model` compute in float32 where bfloat16 is slower; yields how many do.

    Only under bf16 autocast on a CPU; what comes out is bfloat16 as ever, rounded once from sums in float32. Modules that bring a
    forward of their own are left alone. Contexts nest.
    """
    slow = [m for m in model.modules() if computes_as(m, nn.Conv2d) and isinstance(m, nn.Conv2d) and slow_in_bf16(m)]
    return forwards_set(slow, _forward)
