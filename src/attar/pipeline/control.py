"""The control of a run: its final shape with fresh weights, trained directly for as many images as its student saw."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.data import DataError
from attar.pipeline.compress import WARMUP, training
from attar.pipeline.control_facts import WITH, WITHOUT
from attar.pipeline.folder import TEST, RunError, RunFolder, images_of, with_defaults
from attar.pipeline.ranks import refuse_ranks
from attar.pipeline.run import Given, looked_at, run
from attar.pipeline.watch import Silent, Watcher
from attar.recipe import Recipe, RecipeError, Training, changed, check_recipe, difference
from attar.report.controls import STUDENT_STAGES
from attar.train import steps_for


def control(
    path: str | Path,
    with_teacher: bool = True,
    watcher: Watcher | None = None,
    overrides: Sequence[str] = (),
    *,
    data: Given = None,
) -> Path:
    """Run the control of a finished run, in a folder within the run's; resumable as any run.

    The run's report is written again, with its controls. Where the run's test images are not read yet, the control's are not
    either.

    Args:
        path: the run's folder.
        with_teacher: distil from the run's teacher; else learn from labels alone.
        watcher: told about progress.
        overrides: `distil.train.KEY=VALUE`, where the control is to be trained otherwise than by default.
        data: as it was given to `attar.run`, if it was.

    Returns:
        The control's folder.

    Raises:
        RunError: the folder holds no finished run, or one that has no such control, or has one that is trained otherwise.
        RecipeError: an override is none of its training.
        Interrupted, Diverged: as `attar.run`.
    """
    refuse_ranks("attar control")
    path = Path(path)
    recipe = control_recipe(path, with_teacher, overrides)
    folder = path / (WITH if with_teacher else WITHOUT)
    read = (path / TEST).is_file()
    call_places_anew(folder, recipe)
    _check_data(path, recipe, folder, watcher, data)
    run(recipe, folder, watcher, until="report" if read else "export", data=data)
    if read:
        run(check_recipe(RunFolder(path).read_json("run.json")["recipe"]), path, watcher, data=data)
    return folder


def _check_data(path: Path, recipe: Recipe, folder: Path, watcher: Watcher | None, given: Given) -> None:
    """See that the data are those of the run.

    Raises:
        RunError: they are others by now, or cannot be had.
    """
    try:
        facts = looked_at(recipe, folder, watcher or Silent(), given)[1]
    except DataError as error:
        raise RunError(
            f"the data of {path} cannot be had from here: {error}. What a recipe names is looked for from the directory that the "
            "command is given in; data that a program gave to attar.run is given to attar.control too, as data="
        ) from None
    if images_of(facts) != images_of(RunFolder(path).read_json("run.json")):
        raise RunError(
            f"{path} was run on other data than {recipe.data.source!r} holds now: its control would answer others. Give the "
            "command where the run was started, or put the data back"
        )


def control_recipe(path: Path, with_teacher: bool, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run's control: that of its distillation, with the final shape and a schedule of all its images.

    Raises:
        RunError, RecipeError: as `control`.
    """
    folder = RunFolder(path)
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is not a run folder: it has no run.json")
    if not folder.finished("export"):
        raise RunError(f"{path} has not finished, so the final shape is not known; the command it began with goes on")
    folder.check_artifact()
    facts = folder.read_json("run.json")
    values = facts["recipe"]
    if with_teacher and values["teacher"] is not None:
        values = {**values, "teacher": _taught(values["teacher"], path)}
    seen = sum(folder.numbers(stage)["images"] for stage in STUDENT_STAGES if folder.finished(stage))
    return direct_recipe(path, values, path / "artifact", seen, facts["split"]["train"], with_teacher, overrides)


def direct_recipe(
    path: Path,
    values: dict[str, Any],
    shape: Path,
    seen: int,
    samples: int,
    with_teacher: bool,
    overrides: Sequence[str],
) -> Recipe:
    """The recipe of a control.

    Args:
        path: what it is the control of, to be named in errors.
        values: the recipe of that, its teacher as it was when the student learned from it.
        shape: an artifact of the final shape.
        seen: images that the student saw in all its stages.
        samples: images that there are to train on.
        with_teacher: distil; else learn from labels alone.
        overrides: as `control`.

    Raises:
        RunError, RecipeError: as `control`.
    """
    if with_teacher and values["teacher"] is None:
        raise RunError(f"{path} had no teacher; its control is the one without: --without-teacher")
    if with_teacher and values["distil"]["alpha"] == 0:
        raise RunError(
            f"{path} did not listen to its teacher (distil.alpha = 0); its control is the one without: --without-teacher"
        )
    if with_teacher and values["prune"] is None:
        raise RunError(f"{path} pruned nothing: it is its own control with the teacher; there is --without-teacher")
    train = values["distil"]["train"] or _fresh(values["prune"]["final"] or values["prune"]["train"], seen / samples)
    values = values | {
        "name": f"{values['name']}-{WITH if with_teacher else WITHOUT}",
        "student": {**values["student"], "weights": None, "shape": _from_here(shape)},
        "distil": {**values["distil"], "train": _stretched(train, seen, samples)},
        "prune": None,
        "export": {"onnx": False, "pt2": False, "int8": False},
        "teacher": values["teacher"] if with_teacher else None,
    }
    if not with_teacher:
        values["distil"] |= {"alpha": 0.0, "loss": "kl", "view_pool": 0, "mixup": 0.0}
    _check_overrides(overrides)
    values = changed(check_recipe(values, where=f"the control of {path}"), overrides).model_dump(mode="json")
    values["distil"]["train"] = _stretched(values["distil"]["train"], seen, samples)  # the batch may be another
    return check_recipe(values, where=f"the control of {path}")


def _stretched(train: dict[str, Any], seen: int, samples: int) -> dict[str, Any]:
    """The training with as many epochs as show `seen` images, up to one batch."""
    steps = max(1, round(seen / min(train["batch"], samples)))
    stretched = {**train, "epochs": steps / max(1, samples // train["batch"])}
    assert steps_for(Training(**stretched), samples) == steps
    return stretched


def _fresh(fine_tuning: dict[str, Any], epochs: float) -> dict[str, Any]:
    """The training of a student that was only fine-tuned, at the rates and with the warm-up that fresh weights need."""
    rates = training(fine_tuning["optimiser"] != "adamw", fresh=True, batch=fine_tuning["batch"])
    return {**fine_tuning, **rates, "final_learning_rate": 0.0, "warmup": WARMUP * epochs}


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if not key.startswith("distil.train.") or key == "distil.train.epochs":
            raise RecipeError(
                f"{override!r}: a control is its run but for pruning, teacher and training, and sees as many images; give it "
                "distil.train.KEY=VALUE, epochs excepted"
            )


def _taught(teacher: dict[str, Any], path: Path) -> dict[str, Any]:
    """The run's teacher as it is after its stage; a file of outputs stays what it is."""
    if teacher.get("outputs") is not None:
        return teacher
    return {**teacher, "weights": _from_here(path / "teach.safetensors"), "train": None}


def call_places_anew(folder: Path, recipe: Recipe) -> None:
    """Write down what the run's artifact and teacher are called from here: a control goes on from any working directory."""
    if not (folder / "run.json").is_file():
        return
    with RunFolder(folder) as own:
        facts = own.read_json("run.json")
        facts["recipe"]["student"]["shape"] = recipe.student.shape
        if facts["recipe"]["teacher"] is not None and recipe.teacher is not None:
            facts["recipe"]["teacher"]["weights"] = recipe.teacher.weights
        if changes := difference(with_defaults(facts["recipe"]), recipe.model_dump(mode="json")):
            listed = "\n  ".join(changes)
            raise RunError(
                f"{folder} holds a control that is trained otherwise; delete it to train another, or go back to the old "
                f"values:\n  {listed}"
            )
        own.write_json("run.json", facts)


def _from_here(path: Path) -> str:
    """Relative to the working directory, as a user would write it in a recipe."""
    return os.path.relpath(path)
