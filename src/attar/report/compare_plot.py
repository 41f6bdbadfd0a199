"""The plot of a comparison, where matplotlib is installed (`pip install 'attar[plot]'`)."""

from __future__ import annotations

import io

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
    for outcome in comparison.outcomes:
        low, high = outcome.interval
        share = outcome.accuracy
        axes.errorbar(
            outcome.params,
            100 * share,
            yerr=[[100 * (share - low)], [100 * (high - share)]],
            fmt="o",
            capsize=3,
            label=outcome.name,
        )
    kind = "held-out" if comparison.held_out else "test"
    axes.set(xlabel="parameters", ylabel=f"{kind} accuracy (%), 95 % interval", xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
