"""Plots, where matplotlib is installed (`pip install 'attar[plot]'`)."""

from __future__ import annotations

import io
from typing import Any


def frontier_plot(facts: dict[str, Any]) -> str | None:
    """The frontier as SVG: held-out accuracy against parameters, before and after fine-tuning of each step.

    Returns None where there is nothing to plot or matplotlib is missing.
    """
    points = [point for point in facts["frontier"] if point["held_out"] is not None]
    if len(points) < 2:
        return None
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rcParams["svg.hashsalt"] = "attar"  # the same facts give the same file
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    params = [point["cost"]["params"] for point in points]
    axes.plot(params, [100 * point["held_out"] for point in points], "o-", label="after fine-tuning")
    cut = [point for point in points if "held_out_before" in point]
    axes.plot(
        [point["cost"]["params"] for point in cut],
        [100 * point["held_out_before"] for point in cut],
        "x",
        label="right after the cut",
    )
    if "params" in facts["budget"]:
        axes.axvline(facts["budget"]["params"], linestyle="--", color="grey", label="budget")
    axes.set(xlabel="parameters", ylabel="held-out accuracy (%)")
    axes.set_title(f"{facts['name']}: the frontier", parse_math=False)
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
