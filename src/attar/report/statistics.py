"""How sure an accuracy is."""

from __future__ import annotations

import math

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
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
