"""Strided 1x1 convolutions of few channels, kept away from a kernel of torch that writes past its memory.

On CPUs, channels_last, oneDNN's gradient of the weights of such a convolution writes past its workspace where there are fewer
input channels than a vector holds: 8 with AVX2, 16 with AVX-512 (github.com/uxlfoundation/oneDNN/issues/6035, open in November
2026). With AVX2 the process dies or hangs at any size of image, or the gradient is wrong. With AVX-512 it was seen from 48 pixels
on; 40 and fewer were clean under glibc's checks. At such sizes bf16 was clean on both, and recorded runs keep their bits.
Such convolutions are the shortcuts of every pruned ResNet. The same numbers come from the same convolution without stride on
every second pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten.conv2d
_ROADS = frozenset((conv2d, _aten, _aten.default, _aten.padding))
"""Modules and code take the first, captured graphs one of aten's."""
_OTHER_KERNELS = ("cuda", "mps")
_SAFE_CHANNELS = 16
_SAFE_PIXELS = 32 * 32
"""Of an image, in bf16."""


class SafeStridedConvolutions(TorchFunctionMode):
    """Within this context strided 1x1 convolutions of few channels take the other way, whatever code calls them.

    Without gradients (a teacher's) all stay as they are. `backward()` and `autograd.grad` of tensors leave the context, as all
    functions of torch do that run others, and checkpointed parts would compute anew outside; begin at a `GradientEdge`.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ROADS and torch.is_grad_enabled() and (arguments := _without_stride(*args, **kwargs)):
            return conv2d(*arguments)
        return func(*args, **kwargs)


def _without_stride(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Of the arguments of `conv2d` those that compute the same without stride; None where any way is safe."""
    down, right = _ends(stride)
    narrow = weight.shape[1] < _SAFE_CHANNELS and weight.shape[2:] == (1, 1) and groups == 1
    if not narrow or down == right == 1 or not (padding == "valid" or _ends(padding) == (0, 0)):
        return None
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    small = input.shape[-2] * input.shape[-1] <= _SAFE_PIXELS
    if input.device.type in _OTHER_KERNELS or (in_bf16 and small):
        return None
    return input[..., ::down, ::right], weight, bias


def _ends(value: int | Sequence[int] | str) -> tuple[Any, Any]:
    """Of a number for each of two dimensions, or one for both."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
