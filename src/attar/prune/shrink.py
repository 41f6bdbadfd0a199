"""What a cut leaves: indices of tensors, masks over the original units, and the structure of the smaller network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from attar.prune.structure import Axis, Kept, Member, Structure, Term
from attar.prune.surgery import Indices


def kept_indices(structure: Structure, kept: Kept) -> Indices:
    """Indices that stay, for every dimension that loses some."""
    gone: dict[tuple[str, int], np.ndarray] = {}
    for number, mask in kept.items():
        goes = np.append(~mask.numpy(), False)  # the last for indices of no unit, -1
        if not goes.any():
            continue
        for member in structure.groups[number].members:
            lost = goes[member.unit.numpy()]
            if lost.any():
                key = (member.tensor, member.dim)
                gone[key] = gone[key] | lost if key in gone else lost
    indices: Indices = {}
    for (tensor, dim), lost in sorted(gone.items()):
        indices.setdefault(tensor, []).append((dim, torch.from_numpy(np.nonzero(~lost)[0])))
    return indices


def merged_masks(masks: Kept, kept: Kept) -> Kept:
    """Masks over the units as captured, after a cut told in the numbering of now."""
    result = {number: mask.clone() for number, mask in masks.items()}
    for number, mask in kept.items():
        result[number][torch.nonzero(masks[number])[:, 0][~mask]] = False
    return result


def shrunk(structure: Structure, kept: Kept, indices: Indices) -> Structure:
    """The structure after a cut, units numbered anew. `indices` are those of `kept_indices`."""
    stay = {(tensor, dim): index.numpy() for tensor, cuts in indices.items() for dim, index in cuts}
    groups = []
    for number, group in enumerate(structure.groups):
        numbers = np.append(np.arange(group.size), -1)
        if number in kept:
            mask = kept[number].numpy()
            numbers = np.append(np.where(mask, mask.cumsum() - 1, -1), -1)
            row = None if group.row is None else group.row[kept[number]]
            group = dataclasses.replace(group, size=int(mask.sum()), row=row)
        members = tuple(_shrunk_member(member, stay, numbers) for member in group.members)
        groups.append(dataclasses.replace(group, members=members))
    axes: dict[int, Axis] = {}

    def terms(old: Sequence[Term]) -> tuple[Term, ...]:
        return tuple(Term(t.name, t.scale, tuple(_shrunk_axis(a, kept, axes) for a in t.axes), t.dtype) for t in old)

    return Structure(tuple(groups), terms(structure.params), terms(structure.bytes), terms(structure.macs))


def _shrunk_member(member: Member, stay: Mapping[tuple[str, int], np.ndarray], numbers: np.ndarray) -> Member:
    """The member without the indices that went; `numbers`: the new number of each unit, and -1 for -1."""
    index = stay.get((member.tensor, member.dim))
    if index is None:
        return member
    unit = torch.from_numpy(numbers[member.unit.numpy()[index]])
    return Member(member.tensor, member.dim, unit, member.produces, member.kind)


def _shrunk_axis(axis: Axis, kept: Kept, done: dict[int, Axis]) -> Axis:
    if id(axis) not in done:
        done[id(axis)] = Axis(axis.fixed, {g: c[kept[g]] if g in kept else c for g, c in axis.counts.items()})
    return done[id(axis)]
