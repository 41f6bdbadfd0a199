"""Grouped convolutions at full speed under bf16 autocast on a CPU.

oneDNN (torch 2.13's, on a processor with AVX-512 for bfloat16) has fast kernels in bfloat16 for the forward pass of any depthwise
convolution, for the gradients of 3x3 ones of stride 1, and for groups of many channels. Other gradients of depthwise convolutions
it gives to kernels made for dense ones (`brgconv_strided`, `jit_bf16` in its log), which take many times as long. Here they
are put together from what is fast:

- that of the input, under a stride: the gradient of the output with zeros between its rows and columns, convolved with the
  mirrored kernel at stride 1 (as Dumoulin, Visin 2016 describe transposed convolution);
- that of a kernel above 3x3: 3x3 pieces of it, each the gradient of a 3x3 kernel that looks at the input from its own place.

Groups of few channels are computed in float32 instead. Measured in benchmarks/grouped_step.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from attar.train.forwards import computes_as, forwards_set, plain_on_cpu

_NARROW = 4  # channels of a group: below, and in steps of it under strides, bfloat16 was the slower one (measured)
_TILE = 3  # kernel whose gradient is fast
Pair = tuple[int, int]


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of a channels_last batch (N, C, H, W) in bfloat16; its gradient cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad = grad.contiguous(memory_format=torch.channels_last)
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = _input_gradient(grad, x, weight, stride, padding)
        if ctx.needs_input_grad[1]:
            d_weight = _weight_gradient(grad, x, weight, stride, padding)
        if ctx.needs_input_grad[2]:
            d_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(grad.dtype)
        return d_x, d_weight, d_bias, None, None


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Of the input; like x."""
    count, channels, *size = x.shape
    kernel = weight.shape[2:]
    if max(stride) == 1:
        return _gradients(grad, x, weight, stride, padding, (True, False))[0]
    spread = [size[i] + 2 * padding[i] - kernel[i] + 1 for i in range(2)]  # what a convolution of stride 1 gives
    apart = torch.empty((count, channels, *spread), dtype=grad.dtype, memory_format=torch.channels_last).zero_()
    apart[:, :, :: stride[0], :: stride[1]] = grad
    around = (kernel[0] - 1 - padding[0], kernel[1] - 1 - padding[1])
    return torch.conv2d(apart, weight.flip(2, 3), None, 1, around, 1, channels)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Of the kernels; like weight, (C, 1, kernel, kernel)."""
    kernel = weight.shape[2:]
    if max(kernel) <= _TILE:
        return _gradients(grad, x, weight, stride, padding, (False, True))[1]
    around = pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((grad.shape[2 + i] - 1) * stride[i] + _TILE for i in range(2))
    tile = weight.new_empty((len(weight), 1, _TILE, _TILE))
    found = torch.empty_like(weight)
    for top in _starts(kernel[0]):
        for left in _starts(kernel[1]):
            seen = around[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
            piece = _gradients(grad, seen, tile, stride, (0, 0), (False, True))[1]
            found[:, :, top : top + _TILE, left : left + _TILE] = piece
    return found


def _starts(length: int) -> Iterator[int]:
    """Where tiles begin that cover a length; the last one lies at its end."""
    return (min(start, length - _TILE) for start in range(0, length, _TILE))


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """torch's own gradients of the input and of the kernels, where wanted."""
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), x.shape[1], (*wanted, False)
    )
    return found[0], found[1]


def _in_bf16(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether autocast would compute in bfloat16 on a CPU, for a network that trains."""
    return (
        plain_on_cpu(x)
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and convolution.weight.dtype == torch.float32
    )


def _depthwise_forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` does, with gradients of our own."""
    if not (_in_bf16(self, x) and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return nn.Conv2d.forward(self, x)
    bias = None if self.bias is None else self.bias.bfloat16()
    output: Tensor = _Depthwise.apply(x.bfloat16(), self.weight.bfloat16(), bias, self.stride, self.padding)
    return output


def _float32_forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` does, in float32, and rounded once."""
    if not _in_bf16(self, x):
        return nn.Conv2d.forward(self, x)
    with torch.autocast("cpu", enabled=False):
        return nn.Conv2d.forward(self, x.float()).to(torch.bfloat16)


def faster_forward(convolution: nn.Conv2d) -> Callable[[nn.Conv2d, Tensor], Tensor] | None:
    """The forward whose training step is faster than torch's in bfloat16, if one is."""
    channels, strided = convolution.in_channels // convolution.groups, max(convolution.stride) > 1
    if convolution.groups == 1:
        return None
    if channels == 1 and convolution.out_channels == convolution.groups:
        return _depthwise_forward if _can_be_put_together(convolution) else None
    return _float32_forward if channels < _NARROW or (strided and channels % _NARROW != 0) else None


def _can_be_put_together(convolution: nn.Conv2d) -> bool:
    """Whether a depthwise convolution has gradients that are slow, and of a kind that is put together here."""
    kernel, padding = convolution.kernel_size, convolution.padding
    if isinstance(padding, str) or convolution.padding_mode != "zeros" or max(convolution.dilation) > 1:
        return False
    large = max(kernel) > _TILE
    if not large and max(convolution.stride) == 1:
        return False
    return (min(kernel) >= _TILE or not large) and all(around < side for around, side in zip(padding, kernel))


@contextmanager
def fast_groups(model: nn.Module) -> Iterator[int]:
    """Let the grouped Conv2d modules of `model` train in the faster ways above; yields how many do.

    Only under bf16 autocast on a CPU, and while gradients are recorded. What comes out is bfloat16 as ever. Modules that bring
    a forward of their own are left alone. Which way a call takes depends on shape, layout and type only, never on timing.
    Contexts nest.
    """
    ways: dict[Callable[[nn.Conv2d, Tensor], Tensor], list[nn.Module]] = {}
    for module in model.modules():
        if computes_as(module, nn.Conv2d) and isinstance(module, nn.Conv2d) and (way := faster_forward(module)):
            ways.setdefault(way, []).append(module)
    with ExitStack() as stack:
        yield sum(stack.enter_context(forwards_set(modules, way)) for way, modules in ways.items())
