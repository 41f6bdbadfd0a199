"""From labels to units: which labels are one unit, which units must stay, which are rows of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attar.prune.labels import Labels


@dataclass(frozen=True)
class Solution:
    """What every label turned out to be."""

    unit: np.ndarray
    """int64 (labels,): the unit of each label; a unit's number is its smallest label."""
    reason: dict[int, str]
    """Unit -> why it must stay."""
    mixed: dict[int, str]
    """Unit -> the operation that mixes it with others."""
    row: np.ndarray
    """int64 (labels,): for units that stand in rows, the row; -1 for others."""
    family: np.ndarray
    """int64 (labels,): rows of the same family keep the same count; -1 for units that stand in none."""


def solve(labels: Labels) -> Solution:
    """Units, rows and families. Rows that overlap, or differ in what stays, are merged: a unit then spans all of them."""
    first = [a for a, _ in labels.pairs]
    second = [b for _, b in labels.pairs]
    matrices = [m.numpy() for m in labels.rows]
    fixed = np.zeros(labels.count, dtype=bool)
    for item in labels.fixed:
        fixed[item.ids.numpy()] = True
    unit = np.arange(labels.count)
    while True:
        unit = components(labels.count, unit, first, second)
        stays = np.zeros(labels.count, dtype=bool)
        stays[unit[fixed]] = True
        row, family, merges = _rows(matrices, unit, stays, labels.count)
        if not merges:
            break
        first, second = [a for a, _ in merges], [b for _, b in merges]
    reason: dict[int, str] = {}
    for item in labels.fixed:
        for number in np.unique(unit[item.ids.numpy()]).tolist():
            reason.setdefault(number, item.reason)
    mixed: dict[int, str] = {}
    for item in labels.mixed:
        for number in np.unique(unit[item.ids.numpy()]).tolist():
            mixed.setdefault(number, item.reason)
    return Solution(unit, reason, mixed, row, family)


def components(count: int, start: np.ndarray, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    """int64 (count,): the smallest label that each is joined with, by pointer jumping; all vectorised."""
    parent = start.copy()
    if not first:
        return parent
    a, b = np.concatenate(first), np.concatenate(second)
    while True:
        low, high = np.minimum(parent[a], parent[b]), np.maximum(parent[a], parent[b])
        differ = low != high
        if not differ.any():
            return parent
        a, b, low, high = a[differ], b[differ], low[differ], high[differ]
        np.minimum.at(parent, high, low)
        while True:
            jumped = parent[parent]
            if (jumped == parent).all():
                break
            parent = jumped


Merges = list[tuple[np.ndarray, np.ndarray]]


def _rows(
    matrices: list[np.ndarray], unit: np.ndarray, stays: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, Merges]:
    """Row and family of every unit, or the merges that make an impossible constraint trivial."""
    known: dict[bytes, int] = {}
    rows: list[np.ndarray] = []
    tied: list[tuple[int, int]] = []
    origin: list[tuple[int, np.ndarray]] = []
    for matrix in matrices:
        numbers = []
        found = unit[matrix]
        for line in np.unique(np.sort(found, axis=1), axis=0):
            key = line.tobytes()
            if key not in known:
                known[key] = len(rows)
                rows.append(line)
            numbers.append(known[key])
        if len(numbers) > 1:
            origin.append((numbers[0], found))
            tied += [(numbers[0], other) for other in numbers[1:]]
    row, family = np.full(count, -1), np.full(count, -1)
    if not origin:
        return row, family, []
    group = components(
        len(rows), np.arange(len(rows)), [np.array([a for a, _ in tied])], [np.array([b for _, b in tied])]
    )
    bad: set[int] = set()
    shape: dict[int, tuple] = {}
    for number, line in enumerate(rows):
        home = int(group[number])
        if not any(home == group[first] for first, _ in origin):
            continue
        units, times = np.unique(line[~stays[line]], return_counts=True)
        look = (len(units), int(stays[line].sum()), tuple(np.unique(times).tolist()))
        if len(look[2]) > 1 or shape.setdefault(home, look) != look or (row[units] >= 0).any():
            bad.add(home)
            bad |= set(family[units][family[units] >= 0].tolist())
        row[units], family[units] = number, home
    merges: Merges = []
    for first, found in origin:
        if int(group[first]) in bad:
            merges.append((np.broadcast_to(found[:1], found.shape).reshape(-1), found.reshape(-1)))
    return row, family, merges
