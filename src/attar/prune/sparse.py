"""Sparse learning before a cut: penalties that push the units that matter least towards zero while the one loop trains.

A penalty is a function of the model. It changes gradients and leaves the reported loss alone (its value is zero), and
it keeps no state, so that a run resumed from a checkpoint continues with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from attar.prune.importance import weights
from attar.prune.structure import Kept, Member, Structure

Penalty = Callable[[nn.Module], torch.Tensor]


@dataclass(frozen=True)
class WithPenalty:
    """An objective of the one loop with a penalty beside its loss."""

    objective: Callable[[nn.Module, Any], tuple[torch.Tensor, torch.Tensor]]
    penalty: Penalty

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = self.objective(model, batch)
        return loss + self.penalty(model), logits


class Owners:
    """The unit that owns each index of a tensor, as numbers on the tensor's device.

    They are copied there once: a step that is being recorded as a CUDA graph may copy nothing.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def of(self, group: int, number: int, member: Member, size: int, device: torch.device) -> torch.Tensor:
        """int64 (length of the member's dimension,): units of the group, `size` where no unit owns the index.

        `number`: the member's among those of its group.
        """
        key = (group, number, device)
        if key not in self._known:
            self._known[key] = torch.where(member.unit < 0, size, member.unit).to(device)
        return self._known[key]


@dataclass(frozen=True)
class GroupLasso:
    """DepGraph's group sparsity (Fang et al. 2023): every unit is shrunk, the least important of its group the hardest.

    The penalty is strength / 2 x sum over units of gamma x |slices|^2 with gamma = 2^(alpha x (max - norm) / (max -
    min)), where the norms are those of the unit's slices in all weights of the group, as they are now.
    """

    structure: Structure
    strength: float = 1e-4
    alpha: float = 4.0
    _owners: Owners = field(default_factory=Owners, compare=False, repr=False)

    def __call__(self, model: nn.Module) -> torch.Tensor:
        parameters = _parameters(model)
        with torch.no_grad():
            squares = unit_squares(self.structure, parameters, self._owners)
            gamma = {index: lasso_weights(total.sqrt(), self.alpha) for index, total in squares.items()}
        return _gradient_only(self.strength / 2 * weighted_squares(self.structure, parameters, gamma, self._owners))


@dataclass(frozen=True)
class GrowingPenalty:
    """Growing regularisation (GReg-1, Wang et al. 2021): the units chosen to go are shrunk harder and harder.

    The penalty is rate / 2 x |slices of the units that go|^2; the rate rises by `growth` every `every` steps up to
    `ceiling`. The rate is a number of the host, which a CUDA graph would keep as it was: train with `fit(record=False)`.
    """

    structure: Structure
    kept: Kept
    """The plan: units that are not kept are penalised."""
    step: Callable[[], int]
    """Tells the step of the loop, counted from 0."""
    growth: float = 1e-4
    every: int = 10
    ceiling: float = 1.0
    _owners: Owners = field(default_factory=Owners, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}: the penalty grows every so many steps, at least 1")

    @property
    def rate(self) -> float:
        """The rate at this step: the first step already has `growth`."""
        return min(self.growth * (self.step() // self.every + 1), self.ceiling)

    def __call__(self, model: nn.Module) -> torch.Tensor:
        chosen = {index: (~mask).to(torch.float32) for index, mask in self.kept.items()}
        squares = weighted_squares(self.structure, _parameters(model), chosen, self._owners)
        return _gradient_only(self.rate / 2 * squares)


def lasso_weights(norms: torch.Tensor, alpha: float) -> torch.Tensor:
    """gamma (size,): 1 for the unit with the largest norm, 2^alpha for the smallest; all 1 where norms are equal."""
    low, high = norms.min(), norms.max()
    spread = torch.where(high > low, high - low, 1)  # asked on the device: nothing waits for the answer
    return 2.0 ** (alpha * (high - norms) / spread)


def unit_squares(
    structure: Structure, parameters: Mapping[str, torch.Tensor], owners: Owners
) -> dict[int, torch.Tensor]:
    """Squared norm of the slices of every unit that may go, summed over its group's weights: group index -> (size,)."""
    squares = _Squares(parameters)
    found = {}
    for index, group in enumerate(structure.groups):
        if not group.protected and group.size:
            parts = [(member, squares.along(member)) for member in weights(parameters, group)]
            if parts:
                total = parts[0][1].new_zeros(group.size + 1)
                for number, (member, along) in enumerate(parts):
                    owner = owners.of(index, number, member, group.size, along.device)
                    total = total.index_add(0, owner, along)
                found[index] = total[:-1]
    return found


def weighted_squares(
    structure: Structure,
    parameters: Mapping[str, torch.Tensor],
    factors: Mapping[int, torch.Tensor],
    owners: Owners,
) -> torch.Tensor:
    """Scalar: sum over groups and units of factor x |slices|^2, through which gradients flow to the parameters."""
    squares = _Squares(parameters)
    total = next(iter(parameters.values())).new_zeros(())
    for index, factor in factors.items():
        group = structure.groups[index]
        padded = torch.cat([factor, factor.new_zeros(1)])  # indices that no unit owns have the factor 0
        for number, member in enumerate(weights(parameters, group)):
            along = squares.along(member)
            owner = owners.of(index, number, member, group.size, along.device)
            total = total + (padded.to(along)[owner] * along).sum()
    return total


class _Squares:
    """Sums of squares along a dimension of a parameter; a tensor that lives in several groups is squared once."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        self._parameters = parameters
        self._squared: dict[str, torch.Tensor] = {}

    def along(self, member: Member) -> torch.Tensor:
        if member.tensor not in self._squared:
            self._squared[member.tensor] = self._parameters[member.tensor].square()
        squared = self._squared[member.tensor]
        other = [dim for dim in range(squared.dim()) if dim != member.dim]
        return squared.sum(other) if other else squared


def _gradient_only(penalty: torch.Tensor) -> torch.Tensor:
    return penalty - penalty.detach()


def _parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return dict(inner.named_parameters(remove_duplicate=False))
