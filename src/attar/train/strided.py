"""Strided 1x1 convolutions of few channels, kept away from a kernel of torch that writes past its memory.

torch 2.13 on CPUs, channels_last: the gradient of the weights of a 1x1 convolution with stride 2 and fewer than 16 input
channels corrupts the heap for images of 48 pixels and more (found by a run that died; 40 and fewer were clean under
glibc's checks). Such convolutions are the shortcuts of every pruned ResNet. The same numbers come from the same
convolution without stride on every second pixel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.nn.functional import conv2d

from attar.train.forwards import computes_as, forwards_set

_SAFE_CHANNELS = 16
_SAFE_PIXELS = 32 * 32


def _forward(self: nn.Conv2d, x: Tensor) -> Tensor:
    """What `nn.Conv2d.forward` does; the pixels that the stride leaves out are left out first, where it matters."""
    if x.dim() != 4 or x.device.type != "cpu" or x.shape[2] * x.shape[3] <= _SAFE_PIXELS:
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
