"""Recurrent layers as matrix products, for whoever counts their work: oneDNN's kernel of an LSTM is one operation to torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Without oneDNN, whose LSTM torch's counter of FLOPs does not know and counts as nothing; its setting is restored."""
    mkldnn = torch.backends.mkldnn
    before = mkldnn.enabled  # `mkldnn.flags` would set, and warn of, TF32 as well
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        mkldnn.enabled = before
