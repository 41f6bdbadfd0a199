"""`attar compress`: the whole job in one command, without a recipe file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from attar.cli.app import Tensorboard, app, carry_out
from attar.cli.errors import explained
from attar.cli.values import arguments, default_folder, limit


@app.command()
def compress(
    teacher: Annotated[
        str,
        typer.Option(
            help="The teacher's builder: timm:NAME, torchvision:NAME, hf:FOLDER, package.module:function, ..."
        ),
    ],
    weights: Annotated[Path, typer.Option(help="Its weights: safetensors, or a state dict saved by torch.")],
    data: Annotated[str, typer.Option(help="folder:PATH, npz:FILE, fashion-mnist, cifar10, ...")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Any value of the recipe, e.g. augment.flip=0."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; continued if it exists.", show_default="runs/NAME")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Most parameters: a count, 100k, or a share such as 25%.")] = None,
    macs: Annotated[str | None, typer.Option(help="Most multiply-accumulates of one image; likewise.")] = None,
    bytes: Annotated[str | None, typer.Option(help="Most bytes of the file of weights; likewise.")] = None,
    latency: Annotated[str | None, typer.Option(help="Most seconds of one image here: 0.005, 5ms, or a share.")] = None,
    student: Annotated[
        str | None, typer.Option(help="The student's builder.", show_default="the teacher itself, pruned")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the training images.", show_default="by size")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels on each side of a folder's pictures.", min=1)] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data's files are.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Each channel's mean that the teacher's images were normalised by, in 0..1.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Likewise the standard deviations.")] = None,
    teacher_argument: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the teacher's builder; repeat for more.")
    ] = None,
    student_argument: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For the student's builder; repeat for more.")
    ] = None,
    tensorboard: Tensorboard = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the recipe.")] = False,
) -> None:
    """Compress a trained network: build a recipe for your data, show it, and run it. The same command continues."""
    with explained():
        from attar.recipe import Budget, changed, recipe_toml

        limits = {"params": limit(params), "macs": limit(macs), "bytes": limit(bytes), "latency": latency}
        given = {kind: value for kind, value in limits.items() if value is not None}
        budget = Budget(**given) if given else None  # type: ignore[arg-type]
        table: dict[str, Any] = {"source": data}
        table |= {"folder": str(folder)} if folder is not None else {}
        table |= {"size": size} if size is not None else {}
        table |= {"mean": fractions(mean, "--mean")} if mean is not None else {}
        table |= {"std": fractions(std, "--std")} if std is not None else {}
        from attar.data import load_data
        from attar.pipeline.compress import Wish, compress_recipe
        from attar.pipeline.ranks import refuse_ranks

        refuse_ranks("attar compress")
        wish = Wish(
            teacher=teacher,
            weights=str(weights),
            data=table,
            budget=budget,
            teacher_arguments=arguments(teacher_argument or []),
            student=student,
            student_arguments=arguments(student_argument or []),
            epochs=epochs,
            steps=_steps(overrides or ()),
        )

        def show(text: str, done: float | None) -> None:
            if done is not None or dry_run:  # what is told without progress, the run tells again
                typer.echo(text, err=dry_run)  # so that what a dry run prints is a recipe

        found = load_data(data, folder, show, size)
        recipe = changed(compress_recipe(wish, found), overrides or ())
        print(recipe_toml(recipe))
        if not dry_run:
            carry_out(recipe, out or default_folder(recipe.name), tensorboard)


def _steps(overrides: Sequence[str]) -> int | None:
    """The number of steps among the overrides, where one is given that can be one: epochs are shared out among them."""
    from attar.recipe.load import value_of

    values = [
        value_of(raw) for key, _, raw in (one.partition("=") for one in overrides) if key.strip() == "prune.steps"
    ]
    return values[-1] if values and isinstance(values[-1], int) and values[-1] > 0 else None


def fractions(text: str, option: str) -> list[float]:
    """`0.485,0.456,0.406` as numbers.

    Raises ValueError for anything else.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: give numbers separated by commas, one for each channel") from None
