"""The order in which one group would give up its units: what every allocation chooses from."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch

from attar.names import closest
from attar.prune.structure import Group, Kept, Structure

Floor = int | float | str
"""Least units that a group keeps: a count, or a share of its original size (a fraction below 1, or `"25%"`)."""


@dataclass(frozen=True)
class Ladder:
    """One group's way down. Every row gives up its least important units first, all rows the same number."""

    group: int
    order: np.ndarray
    """int64 (rows, alive units of a row): unit numbers, the first to go first."""
    scores: np.ndarray
    """float64 (alive units of a row,): the mean score over the rows of the units that go together, ascending."""
    rungs: tuple[int, ...]
    """Units that a row may keep, falling: the present count, then what floor and alignment allow."""
    original: int
    """Units of a row before anything was cut."""

    def removed(self, keep: int) -> np.ndarray:
        """int64: the units that go when every row keeps `keep`."""
        return self.order[:, : self.order.shape[1] - keep].reshape(-1)

    def lowest_rung(self, keep: int) -> int:
        """The largest rung of at most `keep` units, or the last one."""
        place = bisect_left(self.rungs, -keep, key=operator.neg)
        return self.rungs[min(place, len(self.rungs) - 1)]


def ladders(
    structure: Structure,
    scores: Mapping[int, torch.Tensor],
    kept: Kept | None = None,
    original: Mapping[int, int] | None = None,
    floors: Floor | Mapping[str, Floor] | None = None,
    round_to: int = 1,
) -> list[Ladder]:
    """The ladders of all groups that may be cut: not protected, with units left, and with scores.

    Arguments are those of `attar.prune.allocation.choose`, which see.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(f"round_to={round_to!r}: give a whole number of at least 1")
    kept, original = kept or {}, original or {}
    least = floor_counts(structure, floors, original)
    parts = _parts(structure)
    found = []
    for index, group in enumerate(structure.groups):
        if group.protected or index not in scores:
            continue
        alive = kept[index].numpy().astype(bool) if index in kept else np.ones(group.size, dtype=bool)
        if alive.any():
            whole = original.get(index, group.size)
            found.append(
                _ladder(index, group, scores[index], alive, whole, least[index], round_to, parts.get(index, []))
            )
    return found


def _parts(structure: Structure) -> dict[int, list[np.ndarray]]:
    """Groups of which some tensor holds a part only, in a dimension that holds nothing else: the units of each such part.

    A tensor that lost all of them could not be run, so one of each stays.
    """
    found: dict[int, list[np.ndarray]] = {}
    for index, group in enumerate(structure.groups):
        if group.protected:
            continue
        for member in group.members:
            units = member.unit.numpy()
            if len(units) < group.size and (units >= 0).all():
                found.setdefault(index, []).append(np.unique(units))
    return {index: _innermost(parts) for index, parts in found.items()}


def _innermost(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The parts that hold no other: what stays of these stays of all."""
    kept: list[set[int]] = []
    for part in sorted((set(part.tolist()) for part in parts), key=len):
        if not any(inner <= part for inner in kept):
            kept.append(part)
    return [np.array(sorted(part)) for part in kept]


def _ladder(
    index: int,
    group: Group,
    scores: torch.Tensor,
    alive: np.ndarray,
    original: int,
    floor: int,
    round_to: int,
    parts: Sequence[np.ndarray],
) -> Ladder:
    values = scores.detach().to("cpu", torch.float64).numpy()
    if values.shape != (group.size,):
        raise ValueError(f"scores of {group.name}: shape {values.shape}, but the group has {group.size} units")
    if not np.isfinite(values[alive]).all():
        raise ValueError(f"scores of {group.name} are not finite")
    units = np.nonzero(alive)[0]
    stay = _best_of_each(parts, values, alive)
    # Of units with equal scores the later one goes first.
    if group.row is None:
        rows, order = 1, units[np.lexsort((-units, values[units], stay[units]))][None]
    else:
        row = group.row.numpy()[units]
        sizes = np.unique(row, return_counts=True)[1]
        if (sizes != sizes[0]).any():
            raise ValueError(f"{group.name}: its rows keep different numbers of units ({sorted(set(sizes.tolist()))})")
        order = units[np.lexsort((-units, values[units], stay[units], row))].reshape(len(sizes), sizes[0])
        rows = len(sizes)
    count = order.shape[1]
    lowest = min(count, max(-(-floor // rows), int(stay[order].sum(1).max())))
    step = round_to // math.gcd(rows, round_to)
    rungs = (count, *range((count - 1) // step * step, lowest - 1, -step))
    return Ladder(index, order, np.maximum.accumulate(values[order].mean(axis=0)), rungs, original // rows)


def _best_of_each(parts: Sequence[np.ndarray], values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """bool (size,): of each part the unit with the highest score, unless one that stays is in it."""
    stay = np.zeros(len(values), dtype=bool)
    for part in sorted(parts, key=len):
        here = part[alive[part]]
        if len(here) and not stay[here].any():
            stay[here[np.argmax(values[here])]] = True
    return stay


def floor_counts(
    structure: Structure, floors: Floor | Mapping[str, Floor] | None, original: Mapping[int, int] | None = None
) -> list[int]:
    """Units that each group must keep, at least 1.

    `floors` is one floor for all groups, or maps names or patterns (of a group, or of a tensor that its units live in, by
    any name of it) to floors; where several match, the largest holds. ValueError for a pattern without a match or a value
    that is no floor.
    """
    sizes = [(original or {}).get(index, group.size) for index, group in enumerate(structure.groups)]
    least = [1] * len(sizes)
    if floors is None:
        return least
    aliases: dict[str, list[str]] = {}
    for alias, first in structure.aliases.items():
        aliases.setdefault(first, []).append(alias)
    for pattern, floor in floors.items() if isinstance(floors, Mapping) else [("*", floors)]:
        matching = [index for index, group in enumerate(structure.groups) if matches(group, pattern, aliases)]
        if not matching and pattern != "*":
            names = [group.name for group in structure.groups]
            raise ValueError(f"floors: no group or tensor is called {pattern!r}{closest(pattern, names)}")
        for index in matching:
            least[index] = max(least[index], _floor(floor, sizes[index]))
    return least


def matches(group: Group, pattern: str, aliases: Mapping[str, Sequence[str]]) -> bool:
    """Whether the group's name, or any name of a tensor that its units live in, fits the shell pattern."""
    tensors = [member.tensor for member in group.members]
    further = [alias for tensor in tensors for alias in aliases.get(tensor, ())]
    return any(fnmatchcase(name, pattern) for name in (group.name, *tensors, *further))


def _floor(floor: Floor, size: int) -> int:
    share = None
    if isinstance(floor, str) and floor.strip().endswith("%"):
        try:
            share = float(floor.strip()[:-1]) / 100
        except ValueError:
            share = -1.0
    elif isinstance(floor, float) and floor < 1:
        share = floor
    elif (
        isinstance(floor, int | float) and not isinstance(floor, bool) and 0 <= floor < math.inf and floor == int(floor)
    ):
        return int(floor)
    if share is None or not 0 <= share <= 1:
        raise ValueError(f"floor {floor!r}: give a number of units, or a share such as 0.25 or '25%'")
    return int(np.ceil(share * size - 1e-9))
