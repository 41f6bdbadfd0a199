"""Mixup (Zhang et al. 2018, arXiv:1710.09412) of views: whom each view is mixed with, and in what shares.

As all of a view, both are a pure function of (seed, epoch, sample), so that a teacher's outputs for mixtures can be
kept and used again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from attar.data.philox import Stream, integer, words

SHARES = 256
"""Shares are multiples of 1/256, which float32 holds exactly."""
_UNIFORM = 1 << 24
_PIECES = 64


class Mixup:
    """Partners and shares for the views of an epoch.

    A view's own share is the larger one of a draw from Beta(strength, strength) and what it leaves to 1: mixing is
    symmetric, and so a mixture always goes by the name of the image that most of it shows.
    """

    def __init__(self, strength: float, samples: Tensor, classes: int) -> None:
        """
        Args:
            strength: of Beta(strength, strength), above 0; 1 makes all shares as likely.
            samples: int64 (n,): the images that may be partners, those that are trained on.
            classes: how many there are.
        """
        if not strength > 0:
            raise ValueError(f"mixup needs a strength above 0, not {strength}")
        self.strength, self.classes = strength, classes
        self.samples = samples.cpu().sort().values
        self._bounds = torch.tensor(list(_bounds(strength)))

    def draw(self, seed: int, epoch: int, samples: Tensor) -> Tensor:
        """For each sample its partner's id and its own share in 1/256, 128 to 256: int32 (len(samples), 2), on the CPU."""
        who, share, _, _ = words(seed, Stream.MIX, epoch, samples.cpu())
        partner = self.samples[integer(who, len(self.samples))]
        own = SHARES // 2 + torch.bucketize(share >> 8, self._bounds, right=True)
        return torch.stack([partner, own], 1).to(torch.int32)


def mixed_labels(first: Tensor, second: Tensor, share: Tensor, classes: int) -> Tensor:
    """Distributions float32 (B, classes) that give `share` (B,) to one label and the rest to the other."""
    both = torch.zeros(len(first), classes, device=first.device)
    both.scatter_(1, first[:, None], share[:, None])
    return both.scatter_add_(1, second[:, None], 1 - share[:, None])


def _bounds(strength: float) -> Iterator[int]:
    """Where a draw in 0 .. 2^24-1 passes from one share to the next: the distribution function between the shares.

    The density t^(a-1) (1-t)^(a-1) has a pole at 1 for a < 1. In v = (1-t)^a it is (1 - v^(1/a))^(a-1), smooth from
    t = 1/2 to 1, and the integral a plain sum. Rounded to 24 bits it is the same on every machine.
    """
    edges = [0.5, *((SHARES // 2 + step + 0.5) / SHARES for step in range(SHARES // 2)), 1.0]
    at = [(1 - edge) ** strength for edge in edges]
    parts = [_integral(strength, low, high) for high, low in itertools.pairwise(at)]
    total, passed = math.fsum(parts), 0.0
    for part in parts[:-1]:
        passed += part
        yield round(passed / total * _UNIFORM)


def _integral(strength: float, low: float, high: float) -> float:
    """Of (1 - v^(1/a))^(a-1) from low to high, by midpoints."""
    width = (high - low) / _PIECES
    points = (low + (piece + 0.5) * width for piece in range(_PIECES))
    return width * math.fsum((1 - v ** (1 / strength)) ** (strength - 1) for v in points)
