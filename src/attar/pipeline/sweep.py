"""A sweep: one run for every point of a grid, compared on held-out images. The test images are not read.

What a sweep is for is a choice, and choices are made on held-out images: so its runs end after the stage `export`. The point
that is chosen can be finished, with the reading of the test images, by `attar run` with its recipe and folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.files import write_whole
from attar.pipeline.folder import RunFolder, images_of, lock, read_json
from attar.pipeline.grid import Point
from attar.pipeline.outcome import compare_runs, held_out_images, read_outcome, write_comparison
from attar.pipeline.ranks import refuse_ranks
from attar.pipeline.run import check, prepare, run
from attar.pipeline.watch import Silent, Watcher
from attar.prune import BudgetError, ProofError
from attar.recipe import Recipe, RecipeError
from attar.report import Comparison
from attar.report.compare import Outcome
from attar.train import Diverged, NotFinite

SWEEP = "sweep.json"
"""The file in the sweep's folder that says what became of every point."""
SHARED = ("seed", "data", "augment", "teacher", "compute")
"""Parts of a recipe that the stage `teach` depends on: points that agree in them share its result."""


@dataclass(frozen=True)
class Swept:
    """What came of a sweep."""

    done: tuple[str, ...]
    failed: dict[str, str]
    """Points that broke down -> why."""
    comparison: Comparison | None
    """Of the points that are done; None for fewer than two."""
    page: Path | None
    single: Outcome | None = None
    """On held-out images, of the point that is done, where it is but one."""


def sweep(points: Sequence[Point], out: str | Path, watcher: Watcher | None = None) -> Swept:
    """Run every point in its folder `out/NAME`; what is done is skipped, what was interrupted goes on.

    A point whose training diverges, a cut of which cannot be proved, or whose budget proves out of reach on the way is recorded
    in `sweep.json`, and the rest go on; delete its folder to try it again.

    Args:
        points: as `attar.pipeline.grid.grid` makes them.
        out: the sweep's folder.
        watcher: told about progress.

    Raises:
        RecipeError: a point cannot be run, holds nothing out, or holds out other images than the rest; nothing was computed.
        RunError: a folder holds a run of another recipe.
        Interrupted: the sweep was stopped; the same call goes on.
    """
    refuse_ranks("attar sweep")
    out, watcher = Path(out), watcher or Silent()
    failed = {name: point["error"] for name, point in _recorded(out).items() if "error" in point}
    _check(points, out, failed, watcher)
    out.mkdir(parents=True, exist_ok=True)
    for number, point in enumerate(points, 1):
        folder = out / point.name
        watcher.note(f"point {number} of {len(points)}: {point.name}")
        if point.name in failed:
            watcher.note(f"broke down before: {failed[point.name]} (delete {folder} to try it again)")
            continue
        if RunFolder(folder).finished("export"):
            watcher.note("done before")
            continue
        try:
            share_teacher(point, points, out, watcher)
            run(point.recipe, folder, watcher, until="export")
        except (Diverged, NotFinite, ProofError, BudgetError, RecipeError) as error:
            if isinstance(error, RecipeError) and not isinstance(error.__cause__, BudgetError):
                raise  # a budget, though, may have held in the check above and not hold now: latency is measured again
            failed[point.name] = str(error)
            watcher.note(f"broke down: {error}")
        _record(out, points, failed)
    _record(out, points, failed)
    done = tuple(point.name for point in points if point.name not in failed)
    failed = {point.name: failed[point.name] for point in points if point.name in failed}
    if len(done) < 2:
        single = read_outcome(out / done[0], held_out=True) if done else None
        return Swept(done, failed, None, None, single)
    comparison = compare_runs([out / name for name in done], held_out=True)
    return Swept(done, failed, comparison, write_comparison(comparison, out))


def share_teacher(point: Point, points: Sequence[Point], out: Path, watcher: Watcher) -> None:
    """Give a point that has not begun the teacher of a finished point that teaches the very same one."""
    folder = out / point.name
    if point.recipe.teacher_network is None or (folder / "run.json").exists():
        return
    wanted = _shared(point.recipe)
    donors = [RunFolder(out / other.name) for other in points if _shared(other.recipe) == wanted]
    donors = [donor for donor in donors if donor.finished("teach")]
    if not donors:
        return
    with RunFolder(folder) as own:
        prepare(point.recipe, own, watcher)
        images = images_of(own.read_json("run.json"))
        if same := next((donor for donor in donors if images_of(donor.read_json("run.json")) == images), None):
            own.take_over("teach", same)


def _shared(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(mode="json")
    return {key: plain[key] for key in SHARED} | {"view_seed": recipe.view_seed}


def _check(points: Sequence[Point], out: Path, failed: dict[str, str], watcher: Watcher) -> None:
    """See that every point that is left can be run, and all be compared; raises RecipeError or RunError."""
    faults = []
    images: dict[str, str] = {}
    for point in points:
        folder = RunFolder(out / point.name)
        if point.recipe.data.held_out == 0:
            raise RecipeError("data.held_out = 0 leaves a sweep nothing to choose by; hold some training images out")
        folder.recorded(point.recipe)
        if point.name in failed:
            continue
        if folder.finished("export"):
            images.setdefault(held_out_images(folder.read_json("run.json"), point.recipe), point.name)
            continue
        watcher.note(f"checking {point.name}")
        try:
            images.setdefault(held_out_images(check(point.recipe, folder.path), point.recipe), point.name)
        except ValueError as error:
            faults.append(f"{point.name}: {error}")
    if faults:
        raise RecipeError("\n".join(faults))
    if len(images) > 1:
        listed = "\n  ".join(f"{name}: {held_out}" for held_out, name in images.items())
        raise RecipeError(f"points that hold out different images cannot be compared; sweep them apart:\n  {listed}")


def _recorded(out: Path) -> dict[str, Any]:
    """The points of sweep.json whose folders are there, those of other grids too."""
    file = out / SWEEP
    table = (
        read_json(file, ("points",), ", or delete it, and the next sweep writes it anew")["points"]
        if file.is_file()
        else {}
    )
    return {name: point for name, point in table.items() if (out / name).is_dir()}


def _record(out: Path, points: Sequence[Point], failed: dict[str, str]) -> None:
    """Write sweep.json: every point, what it overrides, and what became of it.

    Points of other grids stay as they are recorded: another sweep may be at work on them in this very folder.
    """
    with lock(out, wait=True, name=".sweep.lock"):
        table = _recorded(out)
        for point in points:
            became: dict[str, Any] = {"done": RunFolder(out / point.name).finished("export")}
            if point.name in failed:
                became = {"error": failed[point.name]}
            table[point.name] = {"overrides": list(point.overrides), **became}
        write_whole(out / SWEEP, json.dumps({"format": 1, "points": table}, indent=1) + "\n")
