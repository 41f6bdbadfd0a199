"""The control of a recorded run whose folder is gone: its shape from the zoo, its recipe and its answers from the record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.artifact import ArtifactError
from attar.artifact.limits import check_permitted
from attar.data import runs_code
from attar.files import write_whole
from attar.models import BuilderSpec
from attar.names import names_function
from attar.pipeline.control import call_places_anew, direct_recipe
from attar.pipeline.control_facts import WITH, WITHOUT, control_of
from attar.pipeline.folder import TEST, RunError, RunFolder, images_of, read_json
from attar.pipeline.ranks import refuse_ranks
from attar.pipeline.record import without_places, write_curves
from attar.pipeline.run import looked_at, run
from attar.pipeline.watch import Silent, Watcher
from attar.pipeline.zoo import Entry, entries, read_entry, read_record, renew
from attar.report.controls import images_seen


def zoo_control(
    zoo: Path,
    name: str,
    seed: int | None = None,
    with_teacher: bool = True,
    out: Path | None = None,
    watcher: Watcher | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Path, Path]:
    """Train the control of a recorded run and add it to the record; resumable as any run.

    Args:
        zoo: the folder.
        name: of the artifact whose shape it gets.
        seed: of a record of the same recipe that ended in the same shape; by default the artifact's own.
        with_teacher: distil from the run's teacher; else learn from labels alone.
        out: where its folder lies, `control-with-teacher` or `control-without-teacher`; by default `runs/NAME-SEED`.
        watcher: told about progress.
        overrides: as `attar.control`.

    Returns:
        The control's folder and the record's.

    Raises:
        RunError: no such artifact or record; a record of another shape, whose teacher is gone, that names code of its own or has
            this control already; the data are others.
        RecipeError: an override is none of its training.
        Interrupted, Diverged: as `attar.run`.
    """
    refuse_ranks("attar zoo control")
    entry = read_entry(zoo, name)
    place = _record_of(entry, seed)
    record = read_record(place)[0]
    _check_shape(place, record, entry.record)
    _check_harmless(place, record["recipe"])
    _check_teacher(place, record["recipe"], with_teacher)
    seen = images_seen(record)
    samples = record["split"]["train"]
    recipe = direct_recipe(place, record["recipe"], entry.artifact, seen, samples, with_teacher, overrides)
    folder = folder_of(zoo, name, seed, with_teacher, out)
    _check_new(place, record, folder)
    call_places_anew(folder, recipe)
    facts = looked_at(recipe, folder, watcher or Silent())[1]
    if images_of(facts) != images_of(record):
        raise RunError(
            f"{place} is of other data than {recipe.data.source!r} holds now: its control would answer others. Its fingerprint "
            f"begins with {record['data']['fingerprint'][:16]}; put those data back"
        )
    run(recipe, folder, watcher)
    add_control(place, folder)
    for other in entries(zoo):
        if other.place == place:
            renew(zoo, other.name)
    return folder, place


def _record_of(entry: Entry, seed: int | None) -> Path:
    """Where the record lies: the artifact's own, or that of another seed beside it."""
    return entry.place if seed is None else entry.place.with_name(str(seed))


def folder_of(zoo: Path, name: str, seed: int | None, with_teacher: bool, out: Path | None) -> Path:
    """Where the control's folder lies."""
    place = _record_of(read_entry(zoo, name), seed)
    return (out or Path("runs") / f"{place.parent.name}-{place.name}") / (WITH if with_teacher else WITHOUT)


def add_control(place: Path, folder: Path) -> None:
    """Write a record anew, with a finished control; the same control again changes nothing."""
    # as it is now: the other control may have been added while this one trained
    record, predictions = read_record(place)
    found: dict[str, Any] = without_places(control_of(folder, {"predictions": predictions}))
    controls = [control for control in record["controls"] if control["name"] != found["name"]]
    controls.insert(0 if folder.name == WITH else len(controls), found)
    answers = predictions | {found["name"]: read_json(folder / TEST)["predictions"]["student"]}
    write_curves(place / f"{folder.name}.jsonl", RunFolder(folder).metrics())
    write_whole(place / "predictions.json", json.dumps(answers, separators=(",", ":")) + "\n")
    write_whole(place / "record.json", json.dumps(record | {"controls": controls}, indent=1) + "\n")


def _check_new(place: Path, record: dict[str, Any], folder: Path) -> None:
    """See that the record has no control of this kind but the one in the folder."""
    report = folder / "artifact" / "report.json"
    here = read_json(report)["test_read"] if report.is_file() else None
    for control in record["controls"]:
        if control["name"] == folder.name.replace("-", " ") and control["test_read"] != here:
            raise RunError(
                f"{place} has a {control['name']} already, whose test images were read {control['test_read']}; a record keeps "
                "one of each kind, so take that one out of record.json to train another"
            )


def _check_shape(place: Path, record: dict[str, Any], own: dict[str, Any]) -> None:
    """See that a record ended in the artifact's shape."""
    ends = [facts["frontier"][-1]["widths"] if facts["frontier"] else None for facts in (record, own)]
    if ends[0] != ends[1] or record["cost"]["after"] != own["cost"]["after"] or record["name"] != own["name"]:
        raise RunError(
            f"{place} ended in another shape than this artifact: {record['cost']['after']['params']:,} parameters, not "
            f"{own['cost']['after']['params']:,}, or others of them; its own artifact is needed"
        )


def _check_harmless(place: Path, recipe: dict[str, Any]) -> None:
    """See that a record, which may be a stranger's, names no code but that of libraries, and nothing to be fetched."""
    way_out = "give `attar run` a recipe of your own, with student.shape = the artifact"
    data = recipe["data"]["source"]
    own = [recipe["distil"]["loss"], recipe["prune"]["importance"] if recipe["prune"] else ""]
    for said in (*filter(names_function, own), *([data] if runs_code(data) or data.startswith("hf:") else [])):
        raise RunError(f"{place} names {said!r}, which would be run or fetched on the record's word alone; {way_out}")
    teacher = recipe["teacher"] or {}
    for network in (recipe["student"], teacher, *teacher.get("members", [])):
        if network.get("model"):
            try:
                check_permitted(BuilderSpec(network["model"], network["arguments"]), ())
            except ArtifactError as error:
                raise RunError(f"{place}: {error}; or {way_out}") from None


def _check_teacher(place: Path, recipe: dict[str, Any], with_teacher: bool) -> None:
    teacher = recipe["teacher"] or {}
    if with_teacher and any(part.get("train") for part in (teacher, *teacher.get("members", []))):
        raise RunError(
            f"the teacher of {place} was taught by the run, and records keep no weights; there is --without-teacher"
        )
