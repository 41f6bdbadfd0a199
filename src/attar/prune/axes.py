"""Lengths of dimensions as linear forms in the units that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from attar.prune.structure import Axis, Group


class Axes:
    """Lengths of dimensions as linear forms, each made once."""

    def __init__(self, groups: Sequence[Group], group: np.ndarray, unit: np.ndarray) -> None:
        self.groups, self.group, self.unit = groups, group, unit
        self.made: dict[Any, Axis] = {}

    def of(self, ids: np.ndarray) -> Axis:
        """The axis of these labels."""
        key = ids.tobytes()
        if key not in self.made:
            group, unit = self.group[ids], self.unit[ids]
            counts = {
                g: torch.from_numpy(np.bincount(unit[group == g], minlength=self.groups[g].size).astype(np.float64))
                for g in np.unique(group[group >= 0]).tolist()
            }
            self.made[key] = Axis(float((group < 0).sum()), counts)
        return self.made[key]

    def plain(self, length: int) -> Axis:
        return self.made.setdefault(length, Axis(float(length)))
