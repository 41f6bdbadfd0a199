"""Several teachers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """The mean of its members' probabilities, given as its logarithm, so that a temperature applies as to any logits.

    Args:
        members: networks (B, channels, height, width) -> logits (B, classes), all of the same classes.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, height, width) -> float32 (B, classes), normalised: their exponentials sum to 1."""
        logs = torch.stack([member(images).float().log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))
