"""The engine in one call each: prune, couple, count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attar.prune.capture import Example
from attar.prune.cost import costs
from attar.prune.coupling import Coupled, couple_model
from attar.prune.engine import Cut, Pruner
from attar.prune.importance import Context, Importance
from attar.prune.undisturbed import copied
from attar.recipe.budget import Budget, Limit, as_budget


@dataclass(frozen=True)
class Pruned:
    """What `prune` gives back: the network and what was done to it."""

    model: nn.Module
    cut: Cut


def prune(
    model: nn.Module,
    example_inputs: Example,
    budget: Budget | Mapping[str, Limit],
    *,
    importance: str | Importance = "group_norm",
    allocation: str = "global",
    protect: Sequence[str] = (),
    policy: str = "normal",
    round_to: int = 1,
    floors: Any = None,
    in_place: bool = True,
    context: Context | None = None,
) -> Pruned:
    """Cut a network to the budget in one step: `attar.prune(model, torch.randn(1, 3, 224, 224), attar.Budget(params="50%"))`.

    Other arguments are those of `Pruner`; a mapping stands for the `Budget` of its entries. With `in_place=False` the model
    stays as it is and a copy is cut.

    Raises:
        BudgetError: the budget cannot be met; it names the smallest that can.
        ProofError: the cut could not be proved.
        ValueError: another argument is wrong, or the network cannot be captured. In all cases the model is untouched.
    """
    budget = as_budget(budget)
    model = model if in_place else copied(model)
    pruner = Pruner(model, example_inputs, importance, allocation, protect, policy, round_to, floors)
    cut = pruner.step(budget, context)
    return Pruned(pruner.model, cut)


class Coupling:
    """Groups and units of a network, to be looked at: `print(attar.couple(model, example))`."""

    def __init__(self, coupled: Coupled) -> None:
        self.structure, self.reports = coupled.structure, coupled.reports

    def __str__(self) -> str:
        lines = [("group", "units", "constraint", "tensors (dimension)")]
        for group in self.structure.groups:
            rows = "" if group.row is None else f"{int(group.row.max()) + 1} equal rows"
            rule = f"stays: {group.protected}" if group.protected else rows or "free"
            where = ", ".join(f"{m.tensor} ({m.dim})" for m in group.members[:4])
            more = len(group.members) - 4
            lines.append((group.name, str(group.size), rule, where + (f", {more} more" if more > 0 else "")))
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        table = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}" for a, b, c, d in lines]
        notes = [f"note: {group.name}: {note}" for group in self.structure.groups for note in group.notes]
        return "\n".join([*table, *notes, *(f"note: {report}" for report in self.reports)])


def couple(model: nn.Module, example_inputs: Example, protect: Sequence[str] = (), policy: str = "normal") -> Coupling:
    """Which channels of which tensors must go together; nothing is changed. Raises as `Pruner` does."""
    return Coupling(couple_model(model, example_inputs, protect, policy))


def count_params(model: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example_inputs: Example) -> int:
    """Multiply-accumulates of one sample in convolutions, linear layers and matrix products.

    Dimension 0 of every tensor in `example_inputs` is the batch; where tensors differ in it, the whole call is one sample.
    """
    return costs(couple_model(model, example_inputs).structure)["macs"]


__all__ = ["Coupling", "Pruned", "count_macs", "count_params", "couple", "prune"]
