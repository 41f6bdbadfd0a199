"""How a view's logits are kept in few bytes: float16, the largest with a remainder, or one byte a class.

A coding turns logits into rows of bytes and back. Whoever distils gets what came back, whether the row was on disk or
was computed a moment ago, so a run cannot tell a remembered output from a fresh one. Bytes are little-endian.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

DENSE_CLASSES = 128
"""Up to so many classes all logits are kept: below it, the largest 32 with their indices save less than half."""
KEPT_CLASSES = 32
"""So many of the largest logits are kept where there are more classes."""
LARGEST = 65504.0
"""The largest finite float16."""


class OutputsError(ValueError):
    """A file of outputs cannot be written or read; the message says why."""


class Coding(Protocol):
    """Logits to bytes and back; row by row, so that what a row says does not depend on its neighbours."""

    name: str
    classes: int
    row_bytes: int

    def encode(self, logits: Tensor) -> Tensor:
        """float32 (n, classes) -> uint8 (n, row_bytes), on the CPU."""

    def decode(self, rows: Tensor, temperature: float) -> Tensor:
        """uint8 (n, row_bytes) -> float32 (n, classes), for a softmax at this temperature."""


class Dense:
    """Every logit as float16: 2 bytes a class."""

    def __init__(self, classes: int) -> None:
        self.name, self.classes, self.row_bytes = "float16", classes, 2 * classes

    def encode(self, logits: Tensor) -> Tensor:
        return _half(logits.cpu()).view(torch.uint8)

    def decode(self, rows: Tensor, temperature: float) -> Tensor:
        return rows.view(torch.float16).float()


class Largest:
    """The 32 largest logits (float16) with their classes, and two numbers for all the others.

    The others share one logit r(T), chosen so that the share of probability that they have together is right at
    temperature 1 and in the limit of high temperatures: with r1 the log of their mean exponential and m their mean,
    r(T) = m + (r1 - m) / T, which is also what normally distributed logits give in between.
    """

    def __init__(self, classes: int) -> None:
        self.name, self.classes = f"largest-{KEPT_CLASSES}", classes
        self._index = torch.int16 if classes <= 1 << 16 else torch.int32
        self._index_bytes = self._index.itemsize * KEPT_CLASSES
        self.row_bytes = self._index_bytes + 2 * (KEPT_CLASSES + 2)

    def encode(self, logits: Tensor) -> Tensor:
        logits = logits.float().cpu()
        values, index = logits.topk(KEPT_CLASSES, dim=1)
        count = self.classes - KEPT_CLASSES
        others = logits.scatter(1, index, -torch.inf).logsumexp(1) - torch.tensor(float(count)).log()
        mean = logits.scatter(1, index, 0.0).sum(1) / count
        numbers = _half(torch.cat([values, others[:, None], mean[:, None]], 1)).view(torch.uint8)
        return torch.cat([index.to(self._index).view(torch.uint8), numbers], 1)

    def decode(self, rows: Tensor, temperature: float) -> Tensor:
        index = rows[:, : self._index_bytes].contiguous().view(self._index).long()
        if self._index is torch.int16:
            index &= 0xFFFF
        numbers = rows[:, self._index_bytes :].contiguous().view(torch.float16).float()
        values, others, mean = numbers[:, :KEPT_CLASSES], numbers[:, -2], numbers[:, -1]
        rest = mean + (others - mean) / temperature
        return rest[:, None].repeat(1, self.classes).scatter_(1, index, values)


class Levels:
    """Every logit as one of 256 levels between the row's smallest and largest: a byte a class, and 2 for the range.

    Only differences of logits are kept, which is all that a softmax sees.
    """

    def __init__(self, classes: int) -> None:
        self.name, self.classes, self.row_bytes = "uint8", classes, classes + 2

    def encode(self, logits: Tensor) -> Tensor:
        logits = logits.float().cpu()
        low, high = logits.aminmax(dim=1, keepdim=True)
        extent = _half(high - low)
        step = extent.float().clamp(min=1e-7) / 255
        levels = ((logits - low) / step).round().clamp(0, 255).to(torch.uint8)
        return torch.cat([levels, extent.view(torch.uint8)], 1)

    def decode(self, rows: Tensor, temperature: float) -> Tensor:
        extent = rows[:, self.classes :].contiguous().view(torch.float16).float()
        return rows[:, : self.classes].float() * (extent / 255)


def coding_for(classes: int) -> Coding:
    """How attar keeps the outputs of a network with so many classes."""
    return Dense(classes) if classes <= DENSE_CLASSES else Largest(classes)


def coding_named(name: str, classes: int) -> Coding:
    """The coding that a file names.

    Raises:
        OutputsError: there is none of this name.
    """
    for kind in (Dense, Largest, Levels):
        if (kind is not Largest or classes > KEPT_CLASSES) and kind(classes).name == name:
            return kind(classes)
    raise OutputsError(
        f"outputs are kept as {name!r}, which this version of attar does not know; it knows float16, uint8"
    )


def _half(numbers: Tensor) -> Tensor:
    return numbers.float().clamp(-LARGEST, LARGEST).half().contiguous()
