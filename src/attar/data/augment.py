"""Where a training image is cropped, mirrored and erased: the places drawn for each sample of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.data.philox import Stream, integer, uniform, words

if TYPE_CHECKING:
    from attar.recipe import Augment  # a type alone: whoever loads an artifact needs no recipe

_TRIES = 100

# The columns of the table of places, int32: the crop's top and left, mirrored or not, and the erased rectangle.
TOP, LEFT, MIRROR, ERASE_TOP, ERASE_BOTTOM, ERASE_LEFT, ERASE_RIGHT = range(7)
PARTNER, SHARE = 7, 8  # where views are mixed


def places(augment: Augment, seed: int, epoch: int, samples: Tensor, size: tuple[int, int]) -> Tensor:
    """What happens to each sample in this epoch: int32 (len(samples), 7), the columns above.

    `size` is (H, W). Row by row a pure function of (seed, epoch, sample). Computed on the CPU in exact integer and
    correctly rounded float64 operations, hence the same bits on any machine.
    """
    mirror, top, left, erase = words(seed, Stream.PLACE, epoch, samples.cpu())
    table = torch.zeros(len(samples), 7, dtype=torch.int32)
    table[:, TOP] = integer(top, 2 * augment.crop_padding + 1)
    table[:, LEFT] = integer(left, 2 * augment.crop_padding + 1)
    table[:, MIRROR] = uniform(mirror) < augment.flip
    pending = torch.nonzero(uniform(erase) < augment.erase).squeeze(1)
    for attempt in range(_TRIES):  # as in the paper: draw again what does not fit, and give up after 100
        if len(pending) == 0:
            break
        fits, rectangles = _rectangles(augment, seed, epoch, samples.cpu()[pending], attempt, size)
        table[pending[fits], ERASE_TOP:] = rectangles[fits]
        pending = pending[~fits]
    return table


def _rectangles(
    augment: Augment, seed: int, epoch: int, samples: Tensor, attempt: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """One try for each sample: whether it fits, and (top, bottom, left, right), ends exclusive."""
    height, width = size
    area_word, aspect_word, top_word, left_word = words(seed, Stream.ERASE, epoch, samples, attempt)
    area = _between(area_word, augment.erase_area) * (height * width)
    aspect = _between(aspect_word, augment.erase_aspect)
    tall = torch.round(torch.sqrt(area * aspect)).to(torch.int64)
    wide = torch.round(torch.sqrt(area / aspect)).to(torch.int64)
    fits = (tall < height) & (wide < width)
    top = integer(top_word, (height - tall + 1).clamp(min=1))
    left = integer(left_word, (width - wide + 1).clamp(min=1))
    return fits, torch.stack([top, top + tall, left, left + wide], dim=1).to(torch.int32)


def _between(word: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return uniform(word) * (high - low) + low
