"""Allocation: which units stay, so that every limit of the budget holds.

Whatever the allocation, a group gives up its least important units first, and units that are gone never come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from attar.names import closest
from attar.prune.cost import COUNTED, CostModel
from attar.prune.ladder import Floor, Ladder, ladders
from attar.prune.structure import Group, Kept, Structure


class BudgetError(ValueError):
    """The budget cannot be met; the message and `smallest` (kind -> figure) say what can."""

    def __init__(self, message: str, smallest: Mapping[str, float]) -> None:
        super().__init__(message)
        self.smallest = dict(smallest)


def choose(
    structure: Structure,
    scores: Mapping[int, torch.Tensor],
    limits: Mapping[str, float],
    allocation: str = "even",
    *,
    kept: Kept | None = None,
    original: Mapping[int, int] | None = None,
    floors: Floor | Mapping[str, Floor] | None = None,
    round_to: int = 1,
    model: CostModel | None = None,
    later: Mapping[str, float] | None = None,
) -> Kept:
    """The units that stay under the limits.

    Args:
        structure: the network's groups and costs.
        scores: group index -> float64 (size,), higher is worth more; groups without scores stay as they are.
        limits: `params`, `macs`, `bytes` -> the figure not to be exceeded (`Budget.resolve`).
        allocation: `even` keeps the same fraction of every group's original size, rounded down, the largest that fits;
            `global` removes the least important units anywhere; `isomorphic` ranks units within groups of the same
            structure and removes the same fraction from each such class (Fang et al. 2024). The last two end within one
            unit's cost (with `round_to`, one step of alignment) of the tightest limit.
        kept: what earlier steps kept, in this structure's numbering; nothing else is kept again.
        original: sizes of groups before anything was cut, where the structure is of a network already cut.
        floors: least units per group: one for all, or by name or pattern (see `attar.prune.ladder.floor_counts`).
        round_to: a group that is cut keeps a multiple of this many units; one that holds no smaller multiple stays
            whole.
        model: the structure's compiled costs, to save compiling them again.
        later: limits that have to be in reach from here: where units of a group cost differently, importance alone could
            remove those that are cheap enough to be the last.

    Returns:
        Masks of all groups that are not whole.

    Raises:
        BudgetError: the limits cannot be met; it names the smallest reachable figure of each.
        ValueError: an argument that cannot be understood.
    """
    allocate = find_allocation(allocation)
    if unknown := [kind for kind in limits if kind not in COUNTED]:
        raise ValueError(f"{unknown[0]!r} is not counted; {', '.join(COUNTED)} are (latency: attar.prune.latency)")
    model = model or CostModel(structure)

    def asked(scores: Mapping[int, torch.Tensor]) -> _Task:
        return _Task(model, ladders(structure, scores, kept, original, floors, round_to), kept or {}, limits)

    def leads_on(masks: Kept) -> bool:
        if not later:
            return True
        least = smallest(
            structure,
            cheapest_first(model, scores, masks),
            kept=masks,
            original=original,
            floors=floors,
            round_to=round_to,
            model=model,
        )
        return all(least[kind] <= limit for kind, limit in later.items())

    task = asked(scores)
    masks = task.masks(allocate(task)) if task.fits(task.lowest) else None
    if masks is None or not leads_on(masks):
        frugal = asked(cheapest_first(model, scores, kept))
        if frugal.fits(frugal.lowest):
            masks = frugal.masks(allocate(frugal))
        elif masks is None:
            raise _unreachable(frugal)
    return masks


def cheapest_first(
    model: CostModel, scores: Mapping[int, torch.Tensor], kept: Kept | None = None
) -> dict[int, torch.Tensor]:
    """The same scores given to other units of a group, where these cost differently: the cheaper, the higher.

    Of units that cost the same the more important one keeps the higher score, and groups whose units all cost the same keep
    theirs as they are, so that groups are ranked against each other as before.
    """
    cheap, found = _cheapness(model, kept), {}
    for index, given in scores.items():
        alive = kept[index].numpy().astype(bool) if kept and index in kept else np.ones(len(given), dtype=bool)
        values = given.detach().to("cpu", torch.float64).numpy().copy()
        if len(np.unique(model.classes[index][alive])) > 1:
            worth = values[alive]
            order = np.lexsort((worth, cheap[index].numpy()[alive]))
            apart = 1e-12 * (np.abs(worth).max() or 1.0)  # equal scores would leave the order to the units' numbers
            worth[order] = np.sort(worth) + apart * np.arange(len(order))
            values[alive] = worth
        found[index] = torch.from_numpy(values)
    return found


def smallest(
    structure: Structure,
    scores: Mapping[int, torch.Tensor] | None = None,
    *,
    kept: Kept | None = None,
    original: Mapping[int, int] | None = None,
    floors: Floor | Mapping[str, Floor] | None = None,
    round_to: int = 1,
    model: CostModel | None = None,
) -> dict[str, int]:
    """The smallest reachable `params`, `macs` and `bytes`, the same for every allocation: each group at its floor.

    Arguments are those of `choose`; without scores, the cheapest units are taken to stay.
    """
    model = model or CostModel(structure)
    scores = _cheapness(model, kept) if scores is None else scores
    task = _Task(model, ladders(structure, scores, kept, original, floors, round_to), kept or {}, {})
    return task.cost(task.lowest)


def _cheapness(model: CostModel, kept: Kept | None) -> dict[int, torch.Tensor]:
    """Group -> (size,): the higher, the less a unit costs, all counted figures taken together."""
    total, marginal = model.cost(kept), model.marginal(kept)
    return {
        index: -sum((marginal[kind][index] / max(total[kind], 1) for kind in COUNTED), torch.zeros(group.size))
        for index, group in enumerate(model.structure.groups)
    }


def signature(group: Group) -> tuple:
    """What isomorphic groups share: the kinds of their tensors, on which dimension, made or read; rows or not."""
    parts = Counter((member.kind, member.dim, member.produces) for member in group.members)
    return (group.row is not None, *sorted(parts.items()))


@dataclass
class _Task:
    """One question to an allocation. Choices are lists: units kept per row, for each ladder."""

    model: CostModel
    ladders: list[Ladder]
    kept: Kept
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        self.present = self.model.class_counts(self.kept)
        """int64 (classes,): units of each class that are there now."""

    @property
    def lowest(self) -> list[int]:
        """Every ladder at its end."""
        return [ladder.rungs[-1] for ladder in self.ladders]

    def classes(self, ladder: Ladder, units: np.ndarray) -> np.ndarray:
        return self.model.classes[ladder.group][units]

    def cost(self, keep: list[int]) -> dict[str, int]:
        gone = [self.classes(ladder, ladder.removed(count)) for ladder, count in zip(self.ladders, keep)]
        return self.model.evaluate(self.without(np.concatenate(gone) if gone else np.zeros(0, dtype=np.int64)))

    def without(self, gone: np.ndarray) -> np.ndarray:
        """Class counts after units of the classes in `gone` went."""
        return self.present - np.bincount(gone, minlength=len(self.present))

    def within(self, cost: Mapping[str, int]) -> bool:
        return all(cost[kind] <= limit for kind, limit in self.limits.items())

    def fits(self, keep: list[int]) -> bool:
        return self.within(self.cost(keep))

    def masks(self, keep: list[int]) -> Kept:
        result = {index: mask.clone() for index, mask in self.kept.items() if not bool(mask.all())}
        for ladder, count in zip(self.ladders, keep):
            removed = ladder.removed(count)
            if len(removed):
                size = self.model.structure.groups[ladder.group].size
                mask = result.setdefault(ladder.group, torch.ones(size, dtype=torch.bool))
                mask[torch.from_numpy(removed)] = False
        return result


def _even(task: _Task) -> list[int]:
    """The largest fraction that fits: cost only changes at fractions i/n of an original size n, so these are tried."""

    def keep(place: int) -> list[int]:
        over, under = int(numerators[place]), int(denominators[place])
        return [ladder.lowest_rung(over * ladder.original // under) for ladder in task.ladders]

    sizes = sorted({ladder.original for ladder in task.ladders})
    whole = [ladder.rungs[0] for ladder in task.ladders]
    if task.fits(whole):
        return whole
    numerators = np.concatenate([np.arange(1, size + 1) for size in sizes])
    denominators = np.repeat(sizes, sizes)
    # Correctly rounded quotients of equal fractions are equal, and those of different ones far apart.
    _, first = np.unique(numerators / denominators, return_index=True)
    numerators, denominators = numerators[first], denominators[first]
    return keep(_largest(len(first), lambda place: task.fits(keep(place))))


def _global(task: _Task) -> list[int]:
    return _by_rank(task, [_step_means(ladder) for ladder in task.ladders])


def _isomorphic(task: _Task) -> list[int]:
    """Rank by the fraction of its class of isomorphic groups that is gone once the unit is."""
    scopes: dict[tuple, list[int]] = {}
    for place, ladder in enumerate(task.ladders):
        scopes.setdefault(signature(task.model.structure.groups[ladder.group]), []).append(place)
    keys: list[np.ndarray] = [np.zeros(0)] * len(task.ladders)
    for places in scopes.values():
        members = [task.ladders[place] for place in places]
        total = sum(ladder.original * len(ladder.order) for ladder in members)
        gone = total - sum(ladder.order.size for ladder in members)
        means = [_step_means(ladder) for ladder in members]
        units = np.concatenate([-np.diff(ladder.rungs) * len(ladder.order) for ladder in members])
        order = np.argsort(np.concatenate(means), kind="stable")
        fraction = np.empty(len(order))
        fraction[order] = (gone + units[order].cumsum()) / total
        for place, part in zip(places, np.split(fraction, np.cumsum([len(mean) for mean in means])[:-1])):
            keys[place] = part
    return _by_rank(task, keys)


def _by_rank(task: _Task, keys: list[np.ndarray]) -> list[int]:
    """Climb down one rung at a time, lowest key first, until the limits hold; then climb back up where that still fits.

    `keys`: for each ladder, a rising float64 (rungs - 1,).
    """
    ranks = np.argsort(np.concatenate(keys), kind="stable") if keys else np.zeros(0, dtype=np.int64)
    owner = np.repeat(np.arange(len(keys)), [len(key) for key in keys])[ranks].tolist()
    level = [0] * len(keys)
    steps = []  # the classes of the units that go in each step
    for place in owner:
        ladder, rung = task.ladders[place], level[place]
        count = ladder.order.shape[1]
        units = ladder.order[:, count - ladder.rungs[rung] : count - ladder.rungs[rung + 1]].reshape(-1)
        steps.append(task.classes(ladder, units))
        level[place] += 1
    stream = np.concatenate([np.zeros(0, dtype=np.int64), *steps])
    ends = np.cumsum([0] + [len(step) for step in steps])

    def counts(number: int) -> np.ndarray:
        return task.without(stream[: ends[number]])

    taken = len(steps) - _largest(
        len(steps) + 1, lambda left: task.within(task.model.evaluate(counts(len(steps) - left)))
    )
    level = np.bincount(owner[:taken], minlength=len(keys)).tolist() if taken else [0] * len(keys)
    now = counts(taken)
    full: set[int] = set()
    for number in range(taken - 1, -1, -1):
        if owner[number] in full:
            continue
        back = now + np.bincount(steps[number], minlength=len(now))
        if task.within(task.model.evaluate(back)):
            now = back
            level[owner[number]] -= 1
        else:
            # Costs only grow as units come back, so what does not fit now never will.
            full.add(owner[number])
    return [ladder.rungs[rung] for ladder, rung in zip(task.ladders, level)]


def _step_means(ladder: Ladder) -> np.ndarray:
    """float64 (rungs - 1,): the mean score of the units that go in each step down, rising."""
    gone = ladder.order.shape[1] - np.array(ladder.rungs)
    if len(gone) == 1:
        return np.zeros(0)
    sums = np.add.reduceat(ladder.scores[: gone[-1]], gone[:-1])
    return np.maximum.accumulate(sums / np.diff(gone))


def _largest(number: int, fits: Callable[[int], bool]) -> int:
    """The largest of range(number) that fits, given that 0 does and that all below one that fits do too."""
    low, high = 0, number - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _unreachable(task: _Task) -> BudgetError:
    least = task.cost(task.lowest)
    parts = [f"{kind} <= {limit:,} (the smallest reachable is {least[kind]:,})" for kind, limit in task.limits.items()]
    message = (
        f"the budget cannot be met: {' and '.join(parts)}, with every group at its floor; "
        "raise the limit, lower floors or round_to, or protect less"
    )
    return BudgetError(message, {kind: least[kind] for kind in task.limits})


ALLOCATIONS: dict[str, Callable[[_Task], list[int]]] = {"even": _even, "global": _global, "isomorphic": _isomorphic}


def find_allocation(name: str) -> Callable[[_Task], list[int]]:
    """The allocation of this name; ValueError with the closest name if there is none."""
    if name not in ALLOCATIONS:
        raise ValueError(
            f"there is no allocation {name!r}{closest(str(name), ALLOCATIONS)}; attar has {', '.join(ALLOCATIONS)}"
        )
    return ALLOCATIONS[name]
