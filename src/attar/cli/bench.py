"""`attar bench`: how fast, how large and how hungry the network and its views are, here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attar.cli.app import Allow, app
from attar.cli.errors import FAILED, explained
from attar.cli.terminal import plain
from attar.cli.values import numbers

if TYPE_CHECKING:
    from attar.artifact import Bench


@app.command()
def bench(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    teacher: Annotated[
        bool | None,
        typer.Option(
            "--teacher/--no-teacher",
            help="The teacher too, from the run around it.",
            show_default="where there is one, unless --view chooses",
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(help="Only this: network, onnx, int8 or pt2; repeat for more.", show_default="all"),
    ] = None,
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,256",
    threads: Annotated[int, typer.Option(help="CPU threads, for every library alike.", min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="How long each batch size is measured.", min=0)] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
    allow: Allow = None,
) -> None:
    """Measure latency, throughput, peak memory and size of teacher, network and views, each in a process of its own."""
    with explained():
        sizes = numbers(batches, "--batches")
        from attar.artifact import bench_all

        settings: dict[str, Any] = {"batches": sizes, "threads": threads, "seconds": seconds, "allow": allow or ()}
        found, without = ([], "") if teacher is False or (view and not teacher) else _teacher(artifact, settings)
        if without and teacher:
            raise ValueError(f"{without}; leave --teacher out")
        found += bench_all(artifact, view or (), **settings, tell=_tell)
        print(as_text(found) if not as_json else json.dumps([asdict(row) for row in found], indent=1))
        if without:
            typer.echo(f"The teacher is not measured: {plain(without)}.", err=True)
        if any(row.error for row in found):
            raise typer.Exit(FAILED)


def _tell(name: str) -> None:
    typer.echo(f"measuring {plain(name)} ...", err=True)


def _teacher(artifact: Path, settings: dict[str, Any]) -> tuple[list[Bench], str]:
    """What was measured of the teacher, or why it was not."""
    from attar.artifact import ArtifactError
    from attar.pipeline.folder import RunError
    from attar.pipeline.teacher import bench_teacher

    try:
        return bench_teacher(artifact, **settings, tell=_tell), ""
    except (ArtifactError, RunError) as error:
        return [], str(error)


def as_text(found: list[Bench]) -> str:
    """A table, a line for the network and every view."""
    from attar.report import table

    sizes = [measured.batch for measured in next((row.measured for row in found if row.measured), ())]
    heads = ["", "file"]
    for size in sizes:
        heads += [f"batch {size}", "images/s", "peak memory", "own memory"]
    rows = [_cells(row, len(heads)) for row in found]
    errors = [f"{row.name} FAILED: {row.error}" for row in found if row.error]
    threads = f"{found[0].threads} thread{'s' if found[0].threads > 1 else ''}"
    foot = f"{threads}; medians; raw pixels in, logits out; own memory: without the libraries."
    return "\n".join([table(heads, rows, terminal=True), "", *errors, foot])


def _cells(row: Bench, columns: int) -> list[str]:
    from attar.report.costs import shown

    cells = [row.name, f"{row.file_bytes / 1e3:,.1f} kB"]
    for one in row.measured:
        cells += [
            f"{shown(1e3 * one.seconds)} ms",
            f"{one.images_per_second:,.0f}",
            f"{one.peak_bytes / 1e6:,.0f} MB",
            f"{one.own_bytes / 1e6:,.1f} MB",
        ]
    return cells + ["-"] * (columns - len(cells))
