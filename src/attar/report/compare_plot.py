"""The plot of a comparison, where matplotlib is installed (`pip install 'attar[plot]'`)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from attar.report.compare import Comparison


def comparison_plot(comparison: Comparison) -> str | None:
    """Accuracy with Wilson's interval against parameters as SVG; None where matplotlib is missing."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rcParams["svg.hashsalt"] = "attar"  # the same facts give the same file
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for outcome, place in zip(comparison.outcomes, side_by_side([outcome.params for outcome in comparison.outcomes])):
        low, high = outcome.interval
        share = outcome.accuracy
        axes.errorbar(
            place,
            100 * share,
            yerr=[[100 * (share - low)], [100 * (high - share)]],
            fmt="o",
            capsize=3,
            label=outcome.name,
        )
    kind = "held-out" if comparison.held_out else "test"
    sizes = {outcome.params for outcome in comparison.outcomes}
    beside = " (points of one size stand side by side)" if len(sizes) < len(comparison.outcomes) else ""
    axes.set(xlabel=f"parameters{beside}", ylabel=f"{kind} accuracy (%), 95 % interval", xscale="log")
    axes.grid(alpha=0.3)
    for name in axes.legend(fontsize="small").get_texts():
        name.set_parse_math(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def side_by_side(sizes: Sequence[int]) -> list[float]:
    """Where points of these sizes stand on a logarithmic axis: those of one size beside each other, not on top."""
    gap = 0.015 * max(math.log(max(sizes) / min(sizes)), 0.2)
    places, met = [], dict.fromkeys(sizes, 0)
    for size in sizes:
        places.append(size * math.exp(gap * (met[size] - (sizes.count(size) - 1) / 2)))
        met[size] += 1
    return places
