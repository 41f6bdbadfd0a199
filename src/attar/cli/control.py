"""`attar control`: what the run would have reached without its pruning, or without its teacher too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import app
from attar.cli.errors import explained, under_way


@app.command()
def control(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Its training, where it shall be another: distil.train.learning_rate=0.1."
        ),
    ] = None,
    without_teacher: Annotated[
        bool, typer.Option("--without-teacher", help="Learn from labels alone, instead of from the run's teacher.")
    ] = False,
) -> None:
    """Train a run's final shape directly, from fresh weights, for as many images as its student saw; its report shows it."""
    with explained():
        from attar.cli.show import shower
        from attar.pipeline.control import control as run_control
        from attar.pipeline.control_facts import WITH, WITHOUT
        from attar.pipeline.folder import TEST

        with under_way(run / (WITHOUT if without_teacher else WITH)), shower() as watcher:
            folder = run_control(run, not without_teacher, watcher, overrides or ())
        print(f"\ncontrol: {folder}")
        if (run / TEST).is_file():
            print(f"report:  {run / 'artifact' / 'report.md'}")
