"""Importance: what each unit of a group is worth, from the tensors that it owns slices of.

A criterion is a function (parameters, group, context) -> float64 (size,). Built-in ones give every group the mean 1
(LAMP has its own scale), so that units of different groups can be ranked together. All are vectorised over units.
A user's own is passed as a function, or named `package.module:function`; docs/extend.md shows how to write one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import numpy as np
import torch

from attar.names import closest, function_named, names_function
from attar.prune.structure import Group, Member, Structure

WEIGHTED = ("conv", "linear", "batch_norm", "norm")
"""Operations whose weights tell what a unit is worth. Biases and running statistics never do."""


@dataclass(frozen=True)
class Context:
    """What a criterion may need beside the parameters."""

    gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Mean gradient of the loss by parameter name (see `attar.prune.gradients.collect_gradients`)."""
    squares: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Mean squared gradient by parameter name: the diagonal of the empirical Fisher matrix."""
    seed: int = 0
    """For `random`."""
    sums: dict[tuple[str, str, int], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)
    """What criteria remember while the groups of one network are scored; `score` starts with none."""

    def on_cpu(self) -> Context:
        """The same, with its tensors on the CPU."""
        gradients, squares = ({n: t.cpu() for n, t in given.items()} for given in (self.gradients, self.squares))
        return replace(self, gradients=gradients, squares=squares)


Parameters = Mapping[str, torch.Tensor]
Importance = Callable[[Parameters, Group, Context], torch.Tensor]
Criterion = TypeVar("Criterion", bound=Importance)


def reads_gradients(criterion: Criterion) -> Criterion:
    """Decorator of a criterion that reads `context.gradients` or `context.squares`: a run collects them before each cut."""
    criterion.needs_gradients = True  # type: ignore[attr-defined]
    return criterion


def group_norm(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """Squared L2 norm of the slices a unit owns, mean over the group's weights, relative to the group's mean.

    Counts the weights of convolutions, linear layers and norms, on producing and reading sides, as
    `GroupMagnitudeImportance` of torch-pruning does (Fang et al. 2023, DepGraph).
    """
    return _relative(
        _mean_over_weights(parameters, group, context, "square", lambda name: wide(parameters[name]).square())
    )


def group_norm_l1(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """L1 norm of the slices a unit owns, mean over the group's weights, relative to the group's mean."""
    return _relative(_mean_over_weights(parameters, group, context, "abs", lambda name: parameters[name].abs()))


def bn_scale(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """|weight| of the norms that scale the units (Liu et al. 2017), mean over the norms, relative to the group's mean.

    Raises ValueError for a group that no norm with a weight scales.
    """
    members = [m for m in weights(parameters, group) if m.kind in ("batch_norm", "norm")]
    if not members:
        raise ValueError(
            f"importance 'bn_scale': no norm scales the units of {group.name}; "
            "choose another importance, such as 'group_norm', or protect this group"
        )
    scales = [per_unit(parameters[m.tensor].detach().abs().double().cpu(), m, group.size) for m in members]
    return _relative(torch.stack(scales).mean(0))


def fpgm(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """Sum of the distances to all other units' slices (He et al. 2019, filter pruning via the geometric median).

    The unit whose slices the others can best stand in for scores least. Mean over the group's convolution and linear
    weights.
    """
    members = [m for m in weights(parameters, group) if m.kind in ("conv", "linear")] or weights(parameters, group)
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in members:
        slices = unit_slices(parameters[member.tensor].detach(), member, group.size)
        total += torch.cdist(slices, slices).sum(1).cpu()
    return _relative(total / max(len(members), 1))


def lamp(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """Squared group norm over the sum of those that are no smaller in the group (Lee et al. 2021, LAMP)."""
    norm = _mean_over_weights(parameters, group, context, "square", lambda name: wide(parameters[name]).square())
    order = torch.argsort(norm, stable=True)
    rest = norm[order].flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(norm)
    scores[order] = torch.where(rest > 0, norm[order] / rest, torch.zeros_like(rest))
    return scores


def random(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """Uniform in (0, 2), a pure function of the seed, the group's name and the unit's number."""
    digest = hashlib.blake2b(f"{context.seed}:{group.name}".encode(), digest_size=16).digest()
    words = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(group.size)
    return torch.from_numpy(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-52)


@reads_gradients
def taylor(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """|weight x gradient| over a unit's slices: the change of the loss to first order (Molchanov et al. 2019).

    Mean over the group's weights, relative to the group's mean. Needs `context.gradients`.
    """

    def change(name: str) -> torch.Tensor:
        return (wide(parameters[name]) * wide(_gradient(context.gradients, name, "taylor"))).abs()

    return _relative(_mean_over_weights(parameters, group, context, "change", change))


@reads_gradients
def fisher(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
    """weight^2 x diagonal Fisher over a unit's slices: to second order (LeCun et al. 1989; Theis et al. 2018).

    The Fisher diagonal stands for the Hessian's. Mean over the group's weights, relative to the group's mean. Needs
    `context.squares`.
    """

    def change(name: str) -> torch.Tensor:
        return wide(parameters[name]).square() * wide(_gradient(context.squares, name, "fisher"))

    return _relative(_mean_over_weights(parameters, group, context, "change", change))


IMPORTANCES: dict[str, Importance] = {
    "group_norm": group_norm,
    "group_norm_l1": group_norm_l1,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "lamp": lamp,
    "random": random,
    "taylor": taylor,
    "fisher": fisher,
}


def find_importance(importance: str | Importance) -> Importance:
    """The criterion of this name (attar's, or `package.module:function`), or the function itself.

    Raises ValueError with the closest name if there is none.
    """
    if callable(importance):
        return importance
    if names_function(importance):
        return function_named(importance)
    if importance not in IMPORTANCES:
        hint = closest(str(importance), IMPORTANCES)
        raise ValueError(
            f"there is no importance {importance!r}{hint}; attar has {', '.join(IMPORTANCES)}; "
            "package.module:function names your own"
        )
    return IMPORTANCES[importance]


def needs_gradients(importance: str | Importance) -> bool:
    """Whether `reads_gradients` marks the criterion. Raises as `find_importance`."""
    return getattr(find_importance(importance), "needs_gradients", False)


@torch.no_grad()
def score(
    structure: Structure,
    parameters: Parameters,
    importance: str | Importance = "group_norm",
    context: Context | None = None,
    only: Collection[int] | None = None,
) -> dict[int, torch.Tensor]:
    """Scores of every unit that may go: group index -> float64 (size,), on the CPU.

    Args:
        only: indices of the groups that are asked for; all if None.

    Raises:
        ValueError: unknown criterion, one that lacks what it needs, or a function whose answer is not a finite (size,)
            tensor.
    """
    criterion, context = find_importance(importance), replace(context or Context(), sums={})
    scores = {}
    for index, group in enumerate(structure.groups):
        if group.protected or not group.size or (only is not None and index not in only):
            continue
        values = torch.as_tensor(criterion(parameters, group, context)).detach().to("cpu", torch.float64)
        if tuple(values.shape) != (group.size,):
            raise ValueError(
                f"importance of {group.name} has the shape {tuple(values.shape)}; its units need ({group.size},)"
            )
        if not torch.isfinite(values).all():
            raise ValueError(
                f"importance of {group.name} is not finite; do its weights or gradients hold NaN or infinity?"
            )
        scores[index] = values
    return scores


def weights(parameters: Parameters, group: Group) -> list[Member]:
    """The group's members that tell what a unit is worth: weights of convolutions, linear layers and norms.

    Where there is none (a group of bare parameters), all floating members that are in `parameters`.
    """
    present = [m for m in group.members if m.tensor in parameters and parameters[m.tensor].is_floating_point()]
    return [m for m in present if m.kind in WEIGHTED and not _is_bias(m.tensor)] or present


def wide(values: torch.Tensor) -> torch.Tensor:
    """Numbers of half precision as float64, others as they are: squares of weights below 2e-4 are nothing in float16."""
    return values.double() if values.element_size() < 4 else values


def per_unit(along: torch.Tensor, member: Member, size: int) -> torch.Tensor:
    """Sum of `along`, float64 (length of the member's dim,), over the indices that each unit owns: float64 (size,)."""
    # Indices that no unit owns, -1, are counted in a bin of their own, which is left out.
    return torch.from_numpy(np.bincount(member.unit.numpy() + 1, weights=along.numpy(), minlength=size + 1)[1:])


def unit_sums(values: torch.Tensor, member: Member, size: int) -> torch.Tensor:
    """Each unit's sum of `values`, which has a figure for every element of the member's tensor: float64 (size,)."""
    return per_unit(_along(values, member.dim), member, size)


def unit_slices(values: torch.Tensor, member: Member, size: int) -> torch.Tensor:
    """Each unit's slice as one row: float64 (size, features); units that own fewer indices are filled up with zeros."""
    flat = values.movedim(member.dim, 0).flatten(1).to(torch.float64) if values.dim() > 1 else values[:, None].double()
    index = torch.nonzero(member.unit >= 0)[:, 0]
    index = index[torch.argsort(member.unit[index], stable=True)]
    unit = member.unit[index]
    owned = torch.bincount(unit, minlength=size)
    place = torch.arange(len(unit)) - (owned.cumsum(0) - owned)[unit]
    slices = flat.new_zeros(size, int(owned.max()) if len(unit) else 1, flat.shape[1])
    slices[unit, place] = flat[index]
    return slices.flatten(1)


def _mean_over_weights(
    parameters: Parameters, group: Group, context: Context, what: str, of: Callable[[str], torch.Tensor]
) -> torch.Tensor:
    """float64 (size,): `of(tensor)`, a figure for each element, summed over a unit's slices; mean over the weights.

    `what` names the figure, under which sums along a dimension are remembered for the other groups that live there.
    """
    members = weights(parameters, group)
    together: dict[int, tuple[Member, torch.Tensor]] = {}  # of members with their units in the same places
    for member in members:
        key = (what, member.tensor, member.dim)
        if key not in context.sums:
            _sum_sides(of(member.tensor).detach(), what, member, context)
        first, known = together.get(id(member.unit), (member, None))
        together[id(member.unit)] = first, context.sums[key] if known is None else known + context.sums[key]
    total = torch.zeros(group.size, dtype=torch.float64)
    for member, sums in together.values():
        total += per_unit(sums, member, group.size)
    return total / max(len(members), 1)


def _along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum over all dimensions but one: float64 (length of that dimension,), on the CPU."""
    other = [each for each in range(values.dim()) if each != dim]
    values = values.detach()
    return (values.sum(other, dtype=torch.float64) if other else values.to(torch.float64)).cpu()


def _sum_sides(values: torch.Tensor, what: str, member: Member, context: Context) -> None:
    """Remember sums along the member's dimension; along both sides of a weight, as one reading tells them."""
    if member.dim > 1 or values.dim() < 2:
        context.sums[what, member.tensor, member.dim] = _along(values, member.dim)
        return
    rows = values.to(torch.float64).flatten(1)  # a kernel of nine is summed with its row, in long runs
    read = rows.sum(0)
    context.sums[what, member.tensor, 0] = rows.sum(1).cpu()
    context.sums[what, member.tensor, 1] = (read.view(values.shape[1], -1).sum(1) if values.dim() > 2 else read).cpu()


def _relative(scores: torch.Tensor) -> torch.Tensor:
    """Scores over their mean; all-zero scores say nothing and stay zero."""
    mean = scores.mean()
    return scores / mean if mean > 0 else scores


@cache
def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2]
    return "bias" in last or last == "beta" or last.startswith("running_")


def _gradient(gradients: Mapping[str, torch.Tensor], name: str, importance: str) -> torch.Tensor:
    if name not in gradients:
        raise ValueError(
            f"importance {importance!r} needs the gradient of {name}: pass batches and a loss, "
            "or choose an importance that reads weights alone, such as 'group_norm'"
        )
    return gradients[name]
