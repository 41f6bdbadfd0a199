"""`attar sweep`: a grid of runs, to choose from on held-out images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import app
from attar.cli.errors import FAILED, explained, under_way
from attar.cli.values import default_folder


@app.command()
def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    axes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE]... [KEY=VALUE,VALUE]...",
            help="Further recipes to lay beside it, and values to try, e.g. distil.temperature=2,4.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds to run every point with, e.g. 0,1,2.")] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder.", show_default="runs/NAME-sweep")] = None,
) -> None:
    """Run a grid of recipes, one folder a point, and compare them on held-out images. The test images are not read.

    Every point is checked before any is run; the same command goes on after a stop. Where a point breaks down, the rest go on and
    the exit code is 1. To finish the point that you choose, with the reading of the test images, give attar run its values and
    its folder.
    """
    with explained():
        from attar.pipeline.grid import grid, seeds_of

        recipes = [recipe, *(Path(text) for text in axes or () if "=" not in text)]
        points = grid(
            recipes, [text for text in axes or () if "=" in text], seeds_of(seeds) if seeds is not None else ()
        )
        from attar.cli.show import shower
        from attar.pipeline.sweep import sweep as run_sweep
        from attar.report import comparison_markdown

        folder = out or default_folder(f"{points[0].recipe.name}-sweep")
        with under_way(folder), shower() as watcher:
            swept = run_sweep(points, folder, watcher)
        if swept.comparison is not None:
            print(f"\n{comparison_markdown(swept.comparison, terminal=True)}\nwritten: {swept.page}")
        if swept.single is not None:
            one, (low, high) = swept.single, swept.single.interval
            print(f"\n{one.name}: {one.accuracy:.2%} [{low:.2%}, {high:.2%}] of {one.images}")
            print(f"run: {folder / one.name}")
        for name, why in swept.failed.items():
            print(f"broke down: {name}: {why}", file=sys.stderr)
        if swept.failed:
            raise typer.Exit(FAILED)
