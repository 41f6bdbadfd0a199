"""What the network costs beside its budget, its teacher and itself before pruning: counts, and seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COSTS = {
    "params": "parameters",
    "macs": "MACs of one image",
    "bytes": "bytes of weights",
    "latency": "milliseconds for one image",
}


@dataclass(frozen=True)
class CostLine:
    """One kind of cost."""

    name: str
    unit: str
    teacher: float | None
    before: float | None
    """Of the student before pruning; None where that is the network itself."""
    after: float

    @property
    def than_teacher(self) -> str:
        """`12.3× smaller`, or nothing where it is not known."""
        return self._change(self.teacher)

    @property
    def than_before(self) -> str:
        """Likewise against the student before pruning."""
        return self._change(self.before)

    def _change(self, other: float | None) -> str:
        if other is None or not other or not self.after:
            return ""
        less, more = ("faster", "slower") if self.unit else ("smaller", "larger")
        ratio = other / self.after
        return f"{shown(ratio)}× {less}" if ratio >= 1 else f"{shown(1 / ratio)}× {more}"


def cost_lines(facts: dict[str, Any]) -> Iterator[CostLine]:
    """A line for each cost that is known of the network."""
    cost, latency = facts["cost"], facts.get("latency") or {}
    pruned = len(facts.get("frontier") or []) > 1
    for kind, name in COSTS.items():
        known = latency if kind == "latency" else {who: counts.get(kind) for who, counts in cost.items()}
        if known.get("after"):
            before = known.get("before") if pruned else None
            yield CostLine(name, " ms" if kind == "latency" else "", known.get("teacher"), before, known["after"])


@dataclass(frozen=True)
class BudgetLine:
    """One limit of the budget."""

    kind: str
    limit: float
    used: float | None
    """None for a latency that was not measured."""
    how: str = ""
    """`a batch of 8, 1 thread`: how a latency was measured."""

    @property
    def verdict(self) -> str:
        """`held`, `MISSED` or `not measured`."""
        return "not measured" if self.used is None else "held" if self.used <= self.limit else "MISSED"


def budget_lines(facts: dict[str, Any]) -> Iterator[BudgetLine]:
    """A line for each limit of the budget."""
    for kind, limit in facts["budget"].items():
        if kind != "latency":
            yield BudgetLine(kind, limit, facts["cost"]["after"].get(kind))
        elif measured := facts.get("budget_latency"):
            threads = f"{measured['threads']} thread{'s' if measured['threads'] > 1 else ''}"
            yield BudgetLine(kind, limit, measured["seconds"], f"a batch of {measured['batch']}, {threads}")
        else:
            yield BudgetLine(kind, limit, None)


def budget_figure(kind: str, value: float | None) -> str:
    """A limit or what is used of it: `99,603`, `0.00512 s`, or `-` where it is not known."""
    if value is None:
        return "-"
    return f"{value:.4g} s" if kind == "latency" else f"{value:,}"


def shown(ratio: float) -> str:
    """`2.48`, `12.3`, `235`: three figures at most."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
