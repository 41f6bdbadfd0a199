"""`attar zoo`: artifacts of recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.errors import FAILED, explained, under_way

zoo = typer.Typer(no_args_is_help=True, help="List, copy and check the artifacts of recorded runs; add one.")

Folder = Annotated[
    Path | None,
    typer.Option("--zoo", help="The zoo's folder.", show_default="zoo in attar's repository, else zoo here"),
]


@zoo.command(name="list")
def list_zoo(zoo: Folder = None) -> None:
    """The table: budget, parameters, accuracy with interval (counted from the record), size and hash."""
    with explained():
        from attar.pipeline.zoo import entries, find_zoo
        from attar.report import table
        from attar.report.card import HEADS, zoo_rows

        folder = find_zoo(zoo)
        found = [entry.facts() for entry in entries(folder)]
        print(table(HEADS, zoo_rows(found), terminal=True) if found else f"{folder} holds nothing yet")


@zoo.command()
def get(
    name: Annotated[str, typer.Argument(help="Of the artifact, as `attar zoo list` shows it.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to; not there yet.", show_default="NAME")
    ] = None,
    zoo: Folder = None,
) -> None:
    """Copy an artifact, verified, into a folder."""
    with explained():
        from attar.pipeline.zoo import find_zoo
        from attar.pipeline.zoo import get as get_artifact

        print(f"artifact: {get_artifact(find_zoo(zoo), name, folder or Path(name))}")


@zoo.command(name="eval")
def evaluate(
    name: Annotated[str, typer.Argument(help="Of the artifact.")],
    folder: Annotated[str | None, typer.Option("--folder", help="Where the data's files are.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="The data set, where the record names a function or one of Hugging Face's."),
    ] = None,
    zoo: Folder = None,
) -> None:
    """Run an artifact on the test images again; exit code 1 unless every answer is the one that was recorded."""
    with explained():
        from attar.pipeline.zoo import evaluate as evaluate_artifact
        from attar.pipeline.zoo import find_zoo
        from attar.report.markdown import percent

        found = evaluate_artifact(find_zoo(zoo), name, folder, print, data)
        print(
            f"{name}: {percent(found.hits / found.n)}, {found.hits:,} of {found.n:,}; recorded {found.recorded_hits:,}"
        )
        if found.ties:
            print(f"{len(found.ties)} images are ties to rounding: {', '.join(map(str, found.ties[:10]))}")
        if found.different:
            shown = ", ".join(map(str, found.different[:10]))
            print(f"MISMATCH: {len(found.different)} images get another class than recorded: {shown}")
            raise typer.Exit(FAILED)
        print("every single answer is the one that was recorded")


@zoo.command()
def control(
    name: Annotated[str, typer.Argument(help="Of the artifact whose final shape is trained.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As `attar control` takes them: distil.train.learning_rate=0.1."),
    ] = None,
    without_teacher: Annotated[
        bool, typer.Option("--without-teacher", help="Learn from labels alone, instead of from the run's teacher.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of another record of the same recipe and final shape.", show_default="the artifact's"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where its folder is to lie.", show_default="runs/RECIPE-SEED")
    ] = None,
    zoo: Folder = None,
) -> None:
    """Train the control of a recorded run whose folder is gone, and add it to the record. `attar control` is for run folders."""
    with explained():
        from attar.cli.show import shower
        from attar.pipeline.zoo import find_zoo
        from attar.pipeline.zoo_control import folder_of, zoo_control

        place = find_zoo(zoo)
        with under_way(folder_of(place, name, seed, not without_teacher, out)), shower() as watcher:
            folder, record = zoo_control(place, name, seed, not without_teacher, out, watcher, overrides or ())
        print(f"\ncontrol: {folder}\nrecord:  {record}")


@zoo.command()
def add(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, or its artifact.")],
    name: Annotated[str, typer.Argument(help="Under which it shall stand in the zoo.")],
    zoo: Annotated[Path, typer.Option("--zoo", help="The zoo's folder.")] = Path("zoo"),
    records: Annotated[Path, typer.Option("--records", help="Where records are kept.")] = Path("records"),
) -> None:
    """Put the artifact of a recorded run into the zoo, with its card. Refuses runs without a record, or of edited code."""
    with explained():
        from attar.pipeline.folder import RunError
        from attar.pipeline.zoo import add as add_artifact
        from attar.pipeline.zoo import find_zoo

        print(f"zoo: {add_artifact(run, name, zoo, records)}")
        try:
            shown = zoo.samefile(find_zoo())
        except RunError:  # there is none but this one
            shown = False
        if not shown:
            print(f"It is not the zoo that `attar zoo list` shows by itself: give the other commands --zoo {zoo}")
