"""Strided 1x1 convolutions of few channels, kept away from a kernel of torch that writes past its memory.

On CPUs, channels_last, oneDNN's gradient of the weights of such a convolution writes past its workspace where there are fewer
input channels than a vector holds: 8 with AVX2, 16 with AVX-512 (github.com/uxlfoundation/oneDNN/issues/6035, open in November
2026). With AVX2 the process dies or hangs at any size of image, or the gradient is wrong. With AVX-512 it was seen from 48 pixels
on; 40 and fewer were clean under glibc's checks. At such sizes bf16 was clean on both, and recorded runs keep their bits.
Such convolutions are the shortcuts of every pruned ResNet. The same numbers come from the same convolution without stride on
every second pixel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from attar.models.forwards import computes_as, forwards_set

_OTHER_KERNELS = ("cuda", "mps")
_SAFE_CHANNELS = 16
_SAFE_PIXELS = 32 * 32
"""Of an image, in bf16."""


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` does; the pixels that the stride leaves out are left out first, where it matters."""
    in_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.dim() != 4 or x.device.type in _OTHER_KERNELS or (in_bf16 and x.shape[2] * x.shape[3] <= _SAFE_PIXELS):
        return nn.Conv2d.forward(self, x)
    down, right = self.stride
    return conv2d(x[:, :, ::down, ::right], self.weight, self.bias)


def safe_strided_convolutions(model: nn.Module) -> AbstractContextManager[int]:
    """Let the strided 1x1 convolutions of few channels of `model` take the other way; yields how many there are."""
    return forwards_set([module for module in model.modules() if _narrow(module)], _forward)


def _narrow(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or not computes_as(module, nn.Conv2d):
        return False
    shape = module.kernel_size == (1, 1) and max(module.stride) > 1 and module.padding == (0, 0)
    return shape and module.groups == 1 and module.in_channels < _SAFE_CHANNELS
