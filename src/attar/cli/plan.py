"""`attar plan`: what a cut would take, before anything is trained or changed."""

from __future__ import annotations

from attar.models import build
from attar.prune import Cut, Pruner
from attar.recipe import Budget
from attar.report import table


def plan_text(
    model: str, arguments: dict[str, object], shape: list[int], budget: Budget, settings: dict[str, object]
) -> str:
    """Build the network, plan and prove the cut on it, and say what went; the network is thrown away.

    Raises:
        ValueError: an unknown name, or a budget that cannot be met (with the smallest that can).
    """
    import torch

    torch.manual_seed(0)
    pruner = Pruner(build(model, **arguments), torch.randn(2, *shape), **settings)  # type: ignore[arg-type]
    least = pruner.minimum()
    cut = pruner.step(budget)
    return "\n".join(
        [f"{model} under {budget}", "", _widths(cut), "", _costs(cut, least.as_dict()), *_notes(cut, pruner)]
    )


def _widths(cut: Cut) -> str:
    rows = [
        [group, str(before), str(after), f"-{before - after}" if after < before else ""]
        for group, (before, after) in cut.widths.items()
    ]
    return table(["group", "units", "kept", "cut"], rows)


def _costs(cut: Cut, least: dict[str, int]) -> str:
    before, after = cut.before.as_dict(), cut.after.as_dict()
    rows = [
        [kind, f"{before[kind]:,}", f"{after[kind]:,}", f"{after[kind] / before[kind]:.1%}", f"{least[kind]:,}"]
        for kind in before
    ]
    return table(["cost", "before", "after", "ratio", "smallest reachable"], rows)


def _notes(cut: Cut, pruner: Pruner) -> list[str]:
    kept = [f"stays whole: {group.name} ({group.protected})" for group in pruner.groups if group.protected]
    notes = [*kept, *cut.notes, *pruner.reports, f"proved: relative error {cut.proof:.1e} in float64"]
    return ["", *notes]
