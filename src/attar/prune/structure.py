"""What the engine knows of a network, as plain data: units, the tensors they live in, and what each of them costs.

Capture and coupling produce a `Structure`; importance, cost, allocation, surgery and proof read it. None of these knows the
others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Member:
    """One place where a group's units live: a dimension of a parameter or buffer."""

    tensor: str
    """Qualified name of the parameter or buffer in the model, e.g. `layer1.0.conv1.weight`."""
    dim: int
    unit: torch.Tensor = field(repr=False)
    """int64 (length of dim,): the unit that owns each index along `dim`, -1 where none of this group does."""
    produces: bool
    """Whether this side makes the units (an output axis), rather than reads them (an input axis)."""
    kind: str
    """The operation that ties the tensor to the units: `conv`, `linear`, `batch_norm`, `norm`, `embedding`, `pointwise`."""


@dataclass(frozen=True)
class Group:
    """The units of one coupled dimension. Removing unit u removes index i of every member's dim where `unit[i] == u`."""

    name: str
    """Stable and readable: the tensor that first makes the units, e.g. `layer1.0.conv1.weight`."""
    size: int
    members: tuple[Member, ...]
    row: torch.Tensor | None = field(default=None, repr=False)
    """int64 (size,) or None: units of one row (attention head, convolution group). Every row keeps the same count."""
    protected: str = ""
    """Why no unit may go (`input`, `output`, `asked`, the operation that fixes it), or empty."""
    notes: tuple[str, ...] = ()
    """What the user should know, e.g. that a LayerNorm mixes the units."""


@dataclass(frozen=True)
class Axis:
    """The length of one dimension as a linear form in the kept units: fixed + sum over groups of counts[g] @ kept[g]."""

    fixed: float
    counts: dict[int, torch.Tensor] = field(default_factory=dict)
    """Group index -> float64 (size of the group,): elements that each unit owns on this axis."""


@dataclass(frozen=True)
class Term:
    """One summand of a cost: scale x the product of the axes' lengths (a tensor's elements, an operation's MACs)."""

    name: str
    scale: float
    axes: tuple[Axis, ...]
    dtype: torch.dtype | None = None
    """Of a tensor in the weights file, whose header then names it."""


@dataclass(frozen=True)
class Structure:
    """A captured network: its groups and the exact cost of any choice of kept units."""

    groups: tuple[Group, ...]
    params: Sequence[Term]
    bytes: Sequence[Term]
    """Parameters and buffers at their dtype, as the weights file holds them; its header is added to their sum."""
    macs: Sequence[Term]
    """Multiply-accumulates of one sample."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Every further name of a shared tensor -> the name that members have it under."""


Kept = dict[int, torch.Tensor]
"""Group index -> bool (size,): True for the units that stay. Groups that are absent are whole."""


def same_units(first: Structure, second: Structure) -> bool:
    """Whether two structures have the same groups of the same units in the same places."""

    def units(structure: Structure) -> list[tuple]:
        return [
            (g.name, g.size, g.protected, [(m.tensor, m.dim, m.unit.tolist()) for m in g.members])
            for g in structure.groups
        ]

    return units(first) == units(second)
