"""`attar compare`: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import app
from attar.cli.errors import explained


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that attar record wrote.")],
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Compare on held-out images: for runs whose test was not read.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the page, its plot and its facts into this folder.")] = None,
) -> None:
    """Lay runs side by side: accuracy with interval, cost, what differs in the recipes, McNemar's test, means over seeds."""
    with explained():
        from attar.pipeline.outcome import compare_runs
        from attar.report import comparison_markdown

        comparison = compare_runs(runs, held_out)
        print(comparison_markdown(comparison, terminal=True), end="")
        if out is not None:
            from attar.pipeline.outcome import write_comparison

            print(f"\nwritten: {write_comparison(comparison, out)}")
