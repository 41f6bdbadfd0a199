"""What is done to a training image, and where: the settings, and the places drawn for each sample of an epoch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attar.data.philox import Stream, integer, uniform, words

FILLS = ("mean", "random", "black")
_TRIES = 100

# The columns of the table of places, int32: the crop's top and left, mirrored or not, and the erased rectangle.
TOP, LEFT, MIRROR, ERASE_TOP, ERASE_BOTTOM, ERASE_LEFT, ERASE_RIGHT = range(7)


@dataclass(frozen=True)
class Augmentation:
    """Random crop, horizontal flip and random erasing (Zhong, Zheng, Kang, Li, Yang 2017), in this order."""

    crop_padding: int = 2
    """Black pixels added on each side before a crop of the original size; 0 for no crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    erase: float = 0.5
    """Probability of erasing a rectangle."""
    erase_area: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest area of the rectangle, as fractions of the image."""
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    """Smallest and largest ratio of height to width."""
    erase_fill: Literal["mean", "random", "black"] = "mean"
    """Filled with the mean that images are normalised by, with random pixels (the paper's best), or with 0."""

    def __post_init__(self) -> None:
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise ValueError(f"crop_padding must be a whole number of pixels, 0 or more, not {self.crop_padding!r}")
        for name in ("flip", "erase"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, 0 .. 1, not {value!r}")
        low, high = _pair("erase_area", self.erase_area)
        if not 0 < low <= high <= 1:
            raise ValueError(f"erase_area must be two fractions, 0 < smallest <= largest <= 1, not {self.erase_area!r}")
        low, high = _pair("erase_aspect", self.erase_aspect)
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"erase_aspect must be two ratios, 0 < smallest <= largest, not {self.erase_aspect!r}")
        if self.erase_fill not in FILLS:
            raise ValueError(f"erase_fill must be one of {', '.join(FILLS)}, not {self.erase_fill!r}")


def places(augmentation: Augmentation, seed: int, epoch: int, samples: Tensor, size: tuple[int, int]) -> Tensor:
    """What happens to each sample in this epoch: int32 (len(samples), 7), the columns above.

    `size` is (H, W). Row by row a pure function of (seed, epoch, sample). Computed on the CPU in exact integer and
    correctly rounded float64 operations, hence the same bits on any machine.
    """
    mirror, top, left, erase = words(seed, Stream.PLACE, epoch, samples.cpu())
    table = torch.zeros(len(samples), 7, dtype=torch.int32)
    table[:, TOP] = integer(top, 2 * augmentation.crop_padding + 1)
    table[:, LEFT] = integer(left, 2 * augmentation.crop_padding + 1)
    table[:, MIRROR] = uniform(mirror) < augmentation.flip
    pending = torch.nonzero(uniform(erase) < augmentation.erase).squeeze(1)
    for attempt in range(_TRIES):  # as in the paper: draw again what does not fit, and give up after 100
        if len(pending) == 0:
            break
        fits, rectangles = _rectangles(augmentation, seed, epoch, samples.cpu()[pending], attempt, size)
        table[pending[fits], ERASE_TOP:] = rectangles[fits]
        pending = pending[~fits]
    return table


def _rectangles(
    augmentation: Augmentation, seed: int, epoch: int, samples: Tensor, attempt: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """One try for each sample: whether it fits, and (top, bottom, left, right), ends exclusive."""
    height, width = size
    area_word, aspect_word, top_word, left_word = words(seed, Stream.ERASE, epoch, samples, attempt)
    area = _between(area_word, augmentation.erase_area) * (height * width)
    aspect = _between(aspect_word, augmentation.erase_aspect)
    tall = torch.round(torch.sqrt(area * aspect)).to(torch.int64)
    wide = torch.round(torch.sqrt(area / aspect)).to(torch.int64)
    fits = (tall < height) & (wide < width)
    top = integer(top_word, (height - tall + 1).clamp(min=1))
    left = integer(left_word, (width - wide + 1).clamp(min=1))
    return fits, torch.stack([top, top + tall, left, left + wide], dim=1).to(torch.int32)


def _between(word: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return uniform(word) * (high - low) + low


def _pair(name: str, value: object) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be two numbers, not {value!r}")
    return value[0], value[1]
