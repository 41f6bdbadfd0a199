"""`attar record`: what a finished run found, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import app
from attar.cli.errors import explained


@app.command()
def record(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, or a sweep's.")],
    folder: Annotated[
        Path, typer.Argument(help="Where records are kept; NAME/SEED is made in it, of a sweep sweeps/NAME.")
    ] = Path("records"),
) -> None:
    """Extract the record of a run: recipe, seed, commit, versions, device, metrics, frontier, controls, single predictions.

    Of a sweep: each point's, with its predictions of the held-out images."""
    with explained():
        from attar.pipeline.record import write_record

        print(f"record: {write_record(run, folder)}")
