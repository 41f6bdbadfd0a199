"""Filling a pool of teacher outputs ahead of a run, and exporting it as a file in place of the teacher."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from attar.distil import ViewOutputs, cache_mode, export_pool, find_pool, pools_folder
from attar.files import write_whole
from attar.pipeline.folder import RunFolder
from attar.pipeline.outputs import teacher_on_test, view_outputs
from attar.pipeline.ranks import refuse_ranks
from attar.pipeline.run import prepare
from attar.pipeline.session import Session
from attar.pipeline.teaching import teach
from attar.pipeline.watch import Silent, Watcher
from attar.recipe import Recipe, RecipeError, check_recipe


def fill_pool(recipe: Recipe, out: str | Path, watcher: Watcher | None = None, epochs: int | None = None) -> Path:
    """Compute the teacher's outputs for a recipe's pool of views; the run in `out` then finds them.

    Args:
        recipe: a checked recipe.
        out: the recipe's run folder; the stage `teach` is done there if it was not, and the run goes on from it.
        watcher: told about progress.
        epochs: so many view epochs; the recipe's `distil.view_pool` unless given.

    Returns:
        The pool's folder.

    Raises:
        RecipeError: as for a run; or there is nothing to fill.
        ValueError: the outputs could not be stored; the watcher was told why.
    """
    refuse_ranks("attar cache fill")
    watcher = watcher or Silent()
    count = epochs or recipe.distil.view_pool
    if recipe.teacher_network is None:
        raise RecipeError("there is no teacher whose outputs could be computed: the recipe names no network for it")
    if not count:
        raise RecipeError("distil.view_pool = 0: every epoch has fresh views; set it, or say how many --epochs to fill")
    with RunFolder(out) as folder:
        session = prepare(recipe, folder, watcher)
        return _fill(session, count, watcher).path


def export_outputs(
    source: str,
    file: str | Path,
    epochs: int | None = None,
    one_byte: bool = False,
    test: bool = False,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Write a pool as one file that a recipe's `teacher.outputs` can name.

    Args:
        source: a pool's key, or a run folder, whose pool is completed first.
        file: the file to write.
        epochs: so many view epochs; all (of a pool), `distil.view_pool` (of a run) unless given.
        one_byte: keep a byte of each logit instead of two.
        test: the outputs for the test images too, which reports hold the student against; from a run folder only.

    Returns:
        `bytes` of the file, `epochs`, and `samples`.

    Raises:
        ValueError: no such pool or run, an incomplete pool, `test` where there is but a pool, or nowhere to write to.
        OSError: the file cannot be written.
    """
    refuse_ranks("attar cache export")
    if not Path(file).parent.is_dir() or Path(file).is_dir():
        raise ValueError(f"{file} cannot be written: name a file in a folder that is there")
    watcher = watcher or Silent()
    on_test = None
    if (Path(source) / "run.json").is_file():
        with RunFolder(source) as folder:
            recipe = check_recipe(folder.read_json("run.json")["recipe"], f"{source}/run.json")
            epochs = epochs or recipe.distil.view_pool
            if recipe.teacher_network is None or not epochs:
                raise RecipeError(f"{source} has no pool of a teacher's outputs: no teacher, or distil.view_pool = 0")
            session = prepare(recipe, folder, watcher)
            source = _fill(session, epochs, watcher).path.name
            if test:
                watcher.note(f"the teacher's outputs for {len(session.data.test_images):,} test images")
                on_test = teacher_on_test(session)
    elif test:
        raise ValueError(f"the outputs for the test images take the teacher itself: name its run folder, not {source}")
    pool = find_pool(pools_folder(), source)
    content = export_pool(pool, epochs, one_byte, on_test)
    write_whole(Path(file), content)
    return {"bytes": len(content), "epochs": epochs or len(pool.epochs), "samples": pool.facts["samples"]["count"]}


def _fill(session: Session, epochs: int, watcher: Watcher) -> Any:
    if cache_mode() == "off":
        raise ValueError("ATTAR_VIEW_CACHE = 'off' forbids to store outputs; unset it")
    if not session.folder.finished("teach"):
        watcher.stage("teach", "")
        teach(session)
    watcher.stage("fill", "")
    outputs = view_outputs(session, write=True)
    assert outputs.pool is not None
    start = time.monotonic()
    for epoch in range(epochs):
        _fill_epoch(outputs, epoch)
        spent = time.monotonic() - start
        left = spent / (epoch + 1) * (epochs - epoch - 1)
        if spent > 2 or epoch == epochs - 1:
            watcher.note(f"view epoch {epoch + 1}/{epochs} filled, {left:.0f} s left")
    return outputs.pool


def _fill_epoch(outputs: ViewOutputs, epoch: int) -> None:
    outputs.fill(epoch)
    if not outputs.stored(epoch):
        raise ValueError(f"view epoch {epoch} could not be stored in {pools_folder()}; the note above says why")
