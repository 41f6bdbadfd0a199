"""`attar record`: what a finished run found, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import app, explained


@app.command()
def record(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    folder: Annotated[Path, typer.Argument(help="Where records are kept; NAME/SEED is made in it.")] = Path("records"),
) -> None:
    """Extract the record of a run: recipe, seed, commit, versions, device, metrics, frontier, controls, single predictions."""
    with explained():
        from attar.pipeline.record import write_record

        print(f"record: {write_record(run, folder)}")
