"""What a cut leaves: indices of tensors, masks over the original units, and the structure of the smaller network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import torch

from attar.prune.structure import Axis, Kept, Member, Structure, Term
from attar.prune.surgery import Indices


def check_kept(structure: Structure, kept: Kept) -> None:
    """See that `kept` has masks of this structure's groups; raises ValueError with what it has instead."""
    groups = structure.groups
    for number, mask in kept.items():
        if number not in range(len(groups)):
            raise ValueError(
                f"kept has {number!r}: give numbers of groups, 0 to {len(groups) - 1}, as `Pruner.plan` returns them"
            )
        size, name = groups[number].size, groups[number].name
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != (size,):
            what = f"{mask.dtype} of {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else repr(mask)[:50]
            raise ValueError(f"kept[{number}], of the group {name!r}, is {what}: give a torch.bool tensor of ({size},)")


def kept_indices(structure: Structure, kept: Kept) -> Indices:
    """Indices that stay, for every dimension that loses some."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for number, mask in kept.items():
        goes = np.append(~mask.numpy(), False)  # the last for indices of no unit, -1
        if not goes.any():
            continue
        lost_of: dict[int, np.ndarray | None] = {}  # many members have their units in the same places
        for member in structure.groups[number].members:
            if id(member.unit) not in lost_of:
                found = goes[member.unit.numpy()]
                lost_of[id(member.unit)] = found if found.any() else None
            lost = lost_of[id(member.unit)]
            if lost is not None:
                key = (member.tensor, member.dim)
                gone[key] = gone[key] | lost if key in gone else lost
    distinct = {id(lost): lost for lost in gone.values()}
    stay = {key: torch.from_numpy(np.nonzero(~lost)[0]) for key, lost in distinct.items()}
    indices: Indices = {}
    for (tensor, dim), lost in sorted(gone.items()):
        indices.setdefault(tensor, []).append((dim, stay[id(lost)]))
    return indices


def merged_masks(masks: Kept, kept: Kept) -> Kept:
    """Masks over the units as captured, after a cut told in the numbering of now."""
    result = dict(masks)
    for number, mask in kept.items():
        result[number] = masks[number].clone()
        result[number][masks[number]] = mask
    return result


def shrunk(structure: Structure, kept: Kept, indices: Indices) -> Structure:
    """The structure after a cut, units numbered anew. `indices` are those of `kept_indices`."""
    stay = {(tensor, dim): index for tensor, cuts in indices.items() for dim, index in cuts}
    groups = []
    for number, group in enumerate(structure.groups):
        size, row = group.size, group.row
        if number in kept:
            mask = kept[number].numpy()
            numbers = np.append(np.where(mask, mask.cumsum() - 1, -1), -1)
            size, row = int(mask.sum()), None if row is None else row[kept[number]]
        elif any((member.tensor, member.dim) in stay for member in group.members):  # beside units of another group
            numbers = np.append(np.arange(size), -1)
        else:
            groups.append(group)
            continue
        units: dict[tuple[int, int], torch.Tensor] = {}
        members = tuple(_shrunk_member(member, stay, numbers, units) for member in group.members)
        groups.append(dataclasses.replace(group, size=size, members=members, row=row))
    axes: dict[int, Axis] = {}
    old, now = (
        (structure.params, structure.bytes, structure.macs),
        {number: mask.clone() for number, mask in kept.items()},
    )
    params, size_on_disk, macs = (_ShrunkTerms(terms, now, axes) for terms in old)
    return Structure(tuple(groups), params, size_on_disk, macs, structure.aliases)


class _ShrunkTerms(Sequence[Term]):
    """Terms of a cost after a cut, made when they are asked for: a step itself counts by its compiled costs."""

    def __init__(self, old: Sequence[Term], kept: Kept, axes: dict[int, Axis]) -> None:
        self._old, self._kept, self._axes = old, kept, axes

    @cached_property
    def _made(self) -> tuple[Term, ...]:
        def shrunk(term: Term) -> Term:
            return dataclasses.replace(term, axes=tuple(_shrunk_axis(a, self._kept, self._axes) for a in term.axes))

        return tuple(shrunk(term) for term in self._old)

    def __len__(self) -> int:
        return len(self._old)

    @overload
    def __getitem__(self, place: int) -> Term: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Term]: ...

    def __getitem__(self, place: int | slice) -> Term | Sequence[Term]:
        return self._made[place]


def _shrunk_member(
    member: Member,
    stay: Mapping[tuple[str, int], torch.Tensor],
    numbers: np.ndarray,
    units: dict[tuple[int, int], torch.Tensor],
) -> Member:
    """The member without the indices that went.

    Args:
        numbers: the new number of each unit, and -1 for -1.
        units: new units by the identity of the old ones and of what stays; members that shared theirs go on to.
    """
    index = stay.get((member.tensor, member.dim))
    key = (id(member.unit), id(index))
    if key not in units:
        unit = member.unit.numpy()  # numbered anew even where none went: others of its group did
        units[key] = torch.from_numpy(numbers[unit if index is None else unit[index.numpy()]])
    return Member(member.tensor, member.dim, units[key], member.produces, member.kind)


def _shrunk_axis(axis: Axis, kept: Kept, done: dict[int, Axis]) -> Axis:
    if id(axis) not in done:
        done[id(axis)] = Axis(axis.fixed, {g: c[kept[g]] if g in kept else c for g, c in axis.counts.items()})
    return done[id(axis)]
