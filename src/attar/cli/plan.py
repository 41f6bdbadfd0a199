"""`attar plan`: what a cut would take, before anything is trained or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.pipeline.session import built
from attar.pipeline.weights import load_weights
from attar.prune import Cut, Pruner
from attar.recipe import Budget
from attar.report import table


def plan_text(
    model: str,
    arguments: dict[str, Any],
    classes: int,
    weights: Path | None,
    shape: list[int],
    budget: Budget,
    settings: dict[str, object],
) -> str:
    """Build the network, plan and prove the cut on it, and say what went; the network is thrown away.

    Raises:
        ValueError: an unknown name, weights that do not fit, or a budget that cannot be met (with the smallest that can).
    """
    import torch

    torch.manual_seed(0)
    network = built(model, arguments, shape[0], classes)
    if weights is not None:
        load_weights(network, weights, "--weights")
    pruner = Pruner(network, torch.randn(2, *shape), **settings)  # type: ignore[arg-type]
    least = pruner.minimum()
    times = [pruner.latency(budget.batch, budget.threads).seconds] if "latency" in budget.limited else []
    cut = pruner.step(budget)
    times += [pruner.latency(budget.batch, budget.threads).seconds for _ in times]
    parts = [f"{model} under {budget}", "", _widths(cut), "", _costs(cut, least.as_dict(), times), *_notes(cut, pruner)]
    if weights is None:
        parts.append("the network's weights are random: --weights FILE ranks by trained ones")
    return "\n".join(parts)


def _widths(cut: Cut) -> str:
    rows = [
        [group, str(before), str(after), f"-{before - after}" if after < before else ""]
        for group, (before, after) in cut.widths.items()
    ]
    return table(["group", "units", "kept", "cut"], rows)


def _costs(cut: Cut, least: dict[str, int], times: list[float]) -> str:
    before, after = cut.before.as_dict(), cut.after.as_dict()
    rows = [
        [kind, f"{before[kind]:,}", f"{after[kind]:,}", f"{after[kind] / before[kind]:.1%}", f"{least[kind]:,}"]
        for kind in before
    ]
    if times:
        first, last = times
        rows.append(["latency", f"{1000 * first:.3f} ms", f"{1000 * last:.3f} ms", f"{last / first:.1%}", "-"])
    return table(["cost", "before", "after", "ratio", "smallest reachable"], rows)


def _notes(cut: Cut, pruner: Pruner) -> list[str]:
    kept = [f"stays whole: {group.name} ({group.protected})" for group in pruner.groups if group.protected]
    notes = [*kept, *cut.notes, *pruner.reports, f"proved: relative error {cut.proof:.1e} in float64"]
    return ["", *notes]
