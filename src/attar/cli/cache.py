"""`attar cache`: the teacher's outputs that are kept for every view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.errors import explained, under_way
from attar.cli.values import default_folder

cache = typer.Typer(
    no_args_is_help=True,
    help="Show, fill, clear and export the teacher's outputs that are kept for every view.",
)


@cache.command()
def show() -> None:
    """List the pools: teacher, data, view epochs, size, and the room that is left."""
    with explained():
        from attar.distil import cache_limit, kept_pools, pools_folder
        from attar.distil.store import megabytes
        from attar.report import table, teacher_name

        folder, limit = pools_folder(), cache_limit()
        pools = kept_pools(folder)
        rows = [
            [
                pool.key,
                teacher_name(pool.facts["teacher"]) if pool.facts else "damaged: clear it",
                str(pool.notes.get("data_name", "")),
                str(pool.facts.get("view_seed", "")),
                str(len(pool.epochs)),
                megabytes(pool.size),
                str(pool.notes.get("recipe", "")),
            ]
            for pool in pools
        ]
        if rows:
            heads = ["pool", "teacher", "data", "view seed", "epochs", "size", "first used by"]
            print(table(heads, rows, terminal=True))
        total = sum(pool.size for pool in pools)
        print(f"{len(pools)} pools in {folder}: {megabytes(total)} of {megabytes(limit)}")


@cache.command()
def fill(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values to override, as for run.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The recipe's run folder; its teacher is used.", show_default="runs/NAME")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="View epochs.", show_default="distil.view_pool")] = None,
) -> None:
    """Compute the teacher's outputs for a recipe's pool of views ahead of its run; teaches the teacher if need be."""
    with explained():
        from attar.recipe import load_recipe

        checked = load_recipe(recipe, overrides or ())
        from attar.cli.show import shower
        from attar.pipeline.filling import fill_pool

        folder = out or default_folder(checked.name)
        with under_way(folder), shower() as watcher:
            path = fill_pool(checked, folder, watcher, epochs)
        print(f"pool: {path}")


@cache.command()
def clear(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Pools, or how their keys begin.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All pools.")] = False,
) -> None:
    """Delete pools. Runs under way go on and compute what they miss."""
    with explained():
        from attar.distil import find_pool, kept_pools, pools_folder, remove_pool
        from attar.distil.store import megabytes

        if bool(keys) == everything:
            raise ValueError("say which pools to clear (`attar cache show` lists them), or --all")
        folder = pools_folder()
        chosen = kept_pools(folder) if everything else [find_pool(folder, key) for key in keys or ()]
        for pool in chosen:
            remove_pool(pool)
            print(f"cleared {pool.key}: {megabytes(pool.size)}")
        if not chosen:
            print(f"nothing to clear in {folder}")


@cache.command()
def export(
    source: Annotated[str, typer.Argument(metavar="KEY_OR_RUN", help="A pool's key, or a run folder.")],
    file: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The first so many view epochs.", show_default="all")
    ] = None,
    one_byte: Annotated[bool, typer.Option("--one-byte", help="A byte for each logit instead of two.")] = False,
    test: Annotated[
        bool, typer.Option("--test", help="The outputs for the test images too, for reports; of a run folder only.")
    ] = False,
) -> None:
    """Write a pool as one file that stands in for the teacher: `teacher.outputs = "FILE"` in a recipe."""
    with explained():
        from attar.cli.show import shower
        from attar.distil.store import megabytes
        from attar.pipeline.filling import export_outputs

        with under_way(Path(source)), shower() as watcher:
            made = export_outputs(source, file, epochs, one_byte, test, watcher)
        print(f"{file}: {made['epochs']} view epochs of {made['samples']:,} images, {megabytes(made['bytes'])}")
