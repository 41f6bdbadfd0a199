"""How sure an accuracy is, and a difference between two."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE_Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(hits: int, n: int, z: float = CONFIDENCE_Z) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927): also sensible near 0 and 1, unlike the normal approximation.

    Args:
        hits: correct predictions, 0 to n.
        n: predictions, at least 1.
        z: normal quantile; the default gives 95 %.

    Returns:
        Lower and upper end, 0 to 1.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} hits of {n}: give 0 <= hits <= n and n >= 1")
    share = hits / n
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # the ends 0 and 1 are exact, and rounding must not put the share outside of its interval
    return (middle - spread) / scale if hits else 0.0, (middle + spread) / scale if hits < n else 1.0


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same images: what the images on which only one of them is right say."""

    first_only: int
    """Images that only the first gets right."""
    second_only: int
    exact: float
    """Two-sided p of the exact conditional test: the binomial probability of a split at least this uneven."""
    mid: float
    """The same with half the probability of splits as uneven as this (mid-p): less conservative (Fagerland et al. 2013)."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """McNemar's test of paired predictions (McNemar 1947), exact and mid-p.

    Args:
        first, second: for each image, whether the prediction is correct; the same images in the same order.

    Raises:
        ValueError: not the same number of images.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} predictions: a paired test needs the same images")
    b = sum(a and not c for a, c in zip(first, second))
    c = sum(c and not a for a, c in zip(first, second))
    n, few = b + c, min(b, c)
    if n == 0:
        return McNemar(b, c, 1.0, 1.0)
    at = _binomial_half(n, few)
    tail = math.fsum(_binomial_half(n, k) for k in range(few + 1))
    exact = min(1.0, 2 * tail)
    mid = exact - (at / 2 if b == c else at)  # of an uneven split the other way round is as likely
    return McNemar(b, c, exact, mid)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _binomial_half(n: int, k: int) -> float:
    """Probability of k heads in n throws of a fair coin, by logarithms: n may be thousands."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
