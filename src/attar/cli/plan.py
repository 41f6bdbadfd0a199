"""`attar plan` and `attar run --dry-run`: what a cut would take, what a run would do, as text."""

from __future__ import annotations

from attar.cli.show import remaining
from attar.pipeline.plan import Planned
from attar.pipeline.rehearsal import Rehearsal
from attar.recipe import Recipe
from attar.report import table


def plan_text(planned: Planned) -> str:
    """Groups, costs and notes of a planned cut."""
    cut = planned.cut
    notes = [
        *(f"stays whole: {name} ({why})" for name, why in planned.whole.items()),
        *cut.notes,
        *planned.reports,
        f"proved: relative error {cut.proof:.1e} in float64",
    ]
    return "\n".join([_widths(planned), "", _costs(planned), "", *notes])


def rehearsal_text(recipe: Recipe, found: Rehearsal) -> str:
    """What the run of a recipe would do, and how long its training would take."""
    facts, machine = found.facts, found.facts["machine"]
    split = facts["split"]
    lines = [
        f"{recipe.name}: it can be run; nothing was trained or written",
        f"{facts['data']['name']}: {split['train']:,} images to train on, {split['held_out']:,} held out",
        "",
    ]
    rows = [
        [name, f"{found.images[name]:,.0f}" if name in found.images else "", remaining(seconds)]
        for name, seconds in found.seconds.items()
    ]
    rows.append(["in all", f"{sum(found.images.values()):,.0f}", remaining(sum(found.seconds.values()))])
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    here = f"{machine['device']}, {machine['precision']}, {threads}"
    lines += [table(["stage", "images seen", f"time here ({here})"], rows, terminal=True), ""]
    lines.append("evaluations, cuts with their proofs and exports come on top")
    if found.planned is not None and recipe.prune is not None:
        lines += ["", f"under {recipe.prune.budget}, cut at once by {found.ranked_by}:", "", plan_text(found.planned)]
    return "\n".join(lines)


def _widths(planned: Planned) -> str:
    rows = [
        [group, str(before), str(after), f"-{before - after}" if after < before else ""]
        for group, (before, after) in planned.cut.widths.items()
    ]
    return table(["group", "units", "kept", "cut"], rows, terminal=True)


def _costs(planned: Planned) -> str:
    before, after = planned.cut.before.as_dict(), planned.cut.after.as_dict()
    rows = [
        [kind, f"{before[kind]:,}", f"{after[kind]:,}", f"{after[kind] / before[kind]:.1%}", f"{least:,}"]
        for kind, least in planned.smallest.items()
    ]
    if planned.seconds is not None:
        first, last = planned.seconds
        rows.append(["latency", f"{1000 * first:.3f} ms", f"{1000 * last:.3f} ms", f"{last / first:.1%}", "-"])
    return table(["cost", "before", "after", "ratio", "smallest reachable"], rows, terminal=True)
