"""`attar plan`: what a cut would take, as text."""

from __future__ import annotations

from attar.pipeline.plan import Planned
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


def _widths(planned: Planned) -> str:
    rows = [
        [group, str(before), str(after), f"-{before - after}" if after < before else ""]
        for group, (before, after) in planned.cut.widths.items()
    ]
    return table(["group", "units", "kept", "cut"], rows)


def _costs(planned: Planned) -> str:
    before, after = planned.cut.before.as_dict(), planned.cut.after.as_dict()
    rows = [
        [kind, f"{before[kind]:,}", f"{after[kind]:,}", f"{after[kind] / before[kind]:.1%}", f"{least:,}"]
        for kind, least in planned.smallest.items()
    ]
    if planned.seconds is not None:
        first, last = planned.seconds
        rows.append(["latency", f"{1000 * first:.3f} ms", f"{1000 * last:.3f} ms", f"{last / first:.1%}", "-"])
    return table(["cost", "before", "after", "ratio", "smallest reachable"], rows)
