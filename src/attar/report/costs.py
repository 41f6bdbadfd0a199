"""What the network costs beside its teacher and itself before pruning: counts, and the time for one image."""

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


def shown(ratio: float) -> str:
    """`2.48`, `12.3`, `235`: three figures at most."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
