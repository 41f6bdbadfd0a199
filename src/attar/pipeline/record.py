"""The record of a finished run: everything that was found, without weights, fit to be committed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from attar import artifact
from attar.files import write_whole
from attar.pipeline.control_facts import WITH, WITHOUT
from attar.pipeline.folder import TEST, RunError, RunFolder, read_json
from attar.pipeline.sweep import SWEEP

FACTS = (
    "format", "name", "recipe", "command", "environment", "machine", "data", "split", "budget", "budget_latency", "cost", "test",
    "test_read", "latency", "held_out", "images_seen", "seconds", "peak_memory", "frontier", "controls", "views",
    "teacher_outputs", "starts",
)  # fmt: skip
"""What of the report goes into a record; layers, summary and curves follow from the recipe or stand in files beside it."""
PLACE = re.compile(r"(?<![^\s'\"=,:(])(?!//)~?/(?:[^\s'\",/]+/)*([^\s'\",/]+)")
"""An absolute path somewhere in a text, which may go on after any space; its last part is kept."""
WHOLE = re.compile(r"((?:[^\s/]*[=:]|\w+ )?)(?:~[^\s/]*)?/(?![\s/])(?:[^/]+/+)*([^/]+/*)", re.DOTALL)
"""An absolute path to the text's end, spaces and all, after `KEY=`, `npz:` or `folder `; that and its last part are kept."""
QUOTED = re.compile(r"(?<![^\s=:,(\[{])(['\"])(.+?)\1")
VALUES = ("recipe", "data", "teacher_outputs", "overrides")
"""Facts whose texts are each one value, and no prose."""


def write_record(run: str | Path, folder: str | Path) -> Path:
    """Write the record of a finished run into `folder/NAME/SEED`: record.json, predictions.json and metrics.jsonl, and
    `CONTROL.jsonl`, the learning curve of each of its controls.

    Of a sweep: into `folder/sweeps/NAME`, NAME being its folder's; its predictions are those of the held-out images.
    Predictions are those of the test images, of the student, its teacher and its controls, one class number an image.
    Absolute paths of this machine are cut to their last part.

    Args:
        run: the run's folder, or a sweep's.
        folder: where records are kept, e.g. `records`.

    Returns:
        The record's folder.

    Raises:
        RunError: the run has not finished, or another run's record is there.
    """
    run = Path(run)
    if (run / SWEEP).is_file():
        return _write_sweep(run, Path(folder))
    RunFolder(run).check_artifact()
    report = run / "artifact" / "report.json"
    if not (run / TEST).is_file() or not report.is_file():
        raise RunError(f"{run} is no finished run: a record needs its report; `attar run` with the same --out goes on")
    facts = read_json(report)
    record = {key: without_places(facts[key]) for key in FACTS if key in facts}
    target = Path(folder) / facts["name"] / str(facts["recipe"]["seed"])
    _check_same(target, record)
    target.mkdir(parents=True, exist_ok=True)
    _write(target / "predictions.json", json.dumps(_predictions(run), separators=(",", ":")))
    write_curves(target / "metrics.jsonl", RunFolder(run).metrics())
    for name in (WITH, WITHOUT):
        if (run / name / TEST).is_file():
            write_curves(target / f"{name}.jsonl", RunFolder(run / name).metrics())
    _write(target / "record.json", json.dumps(record, indent=1))  # last: it says that the record is whole
    return target


def write_curves(file: Path, lines: list[dict[str, Any]]) -> None:
    """Write learning curves, one JSON object a line."""
    _write(file, "\n".join(json.dumps(line) for line in lines))


def _write_sweep(sweep: Path, folder: Path) -> Path:
    """The record of a sweep: sweep.json, predictions.json and metrics.jsonl."""
    table = read_json(sweep / SWEEP)["points"]
    if unfinished := [name for name, point in table.items() if not point.get("done") and "error" not in point]:
        raise RunError(
            f"{sweep} has not finished: {unfinished[0]} is not done; `attar sweep` with the same --out goes on"
        )
    points: dict[str, Any] = {}
    predictions: dict[str, list[int]] = {}
    curves: list[dict[str, Any]] = []
    for name, point in table.items():
        points[name] = {"overrides": point["overrides"]}
        if "error" in point:
            points[name]["error"] = point["error"]
            continue
        own = RunFolder(sweep / name)
        tensors, _ = own.result("export")
        labels = tensors["labels"].tolist()
        if predictions.setdefault("labels", labels) != labels:
            raise RunError(f"{sweep}: {name} held out other images than the points before it; record them apart")
        predictions[name] = tensors["predictions"].tolist()
        points[name] |= _point_facts(own)
        curves += [{"point": name, **line} for line in own.metrics()]
    if not predictions:
        raise RunError(f"every point of {sweep} broke down, so there is nothing to record; {SWEEP} there says why")
    record = without_places({"format": 1, "name": sweep.resolve().name, "points": points})
    target = folder / "sweeps" / record["name"]
    file = target / SWEEP
    if file.is_file() and _starts(read_json(file)) != _starts(record):
        raise RunError(f"{target} holds the record of another sweep of this name; move it away first")
    target.mkdir(parents=True, exist_ok=True)
    _write(target / "predictions.json", json.dumps(predictions, separators=(",", ":")))
    write_curves(target / "metrics.jsonl", curves)
    _write(file, json.dumps(record, indent=1))
    return target


def _point_facts(folder: RunFolder) -> dict[str, Any]:
    """What a sweep's record holds of a point."""
    stages = [stage for stage in ("teach", "distil", "prune") if folder.finished(stage)]
    results = {stage: folder.numbers(stage) for stage in stages}
    facts = folder.read_json("run.json")
    return {
        **{key: facts[key] for key in ("recipe", "environment", "machine", "data", "split", "starts")},
        **{key: facts[key] for key in ("teacher_outputs",) if key in facts},
        "params": artifact.describe(folder.artifact).counts["params"],
        "held_out": folder.numbers("export")["held_out"],
        "images_seen": {stage: result["images"] for stage, result in results.items()},
        "seconds": {stage: result.get("seconds") for stage, result in results.items()},
    }


def _starts(record: dict[str, Any]) -> dict[str, Any]:
    """What tells sweeps of a name apart: how each point was first begun, and where."""
    found = {}
    for name, point in record["points"].items():
        found[name] = [point["starts"][0], point["environment"]["commit"]] if "starts" in point else point["error"]
    return found


def without_places(value: Any, key: str = "", of_values: bool = False) -> Any:
    """Plain data with absolute paths in its texts cut to their last part.

    Args:
        value: facts of a run, or a part of them.
        key: what the part is called.
        of_values: it lies in one of VALUES.
    """
    of_values = of_values or key in VALUES
    if isinstance(value, dict):
        return {name: without_places(item, name, of_values) for name, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, key, of_values) for item in value]
    if not isinstance(value, str):
        return value
    if of_values:
        return _value_without_places(value)
    return _command_without_places(value) if key in ("command", "starts") else _prose_without_places(value)


def _command_without_places(text: str) -> str:
    """Of a command line. Commands of older runs were joined without quotes: where their words end is not known."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if shlex.join(words) != text:
        return _prose_without_places(text)
    return shlex.join(_value_without_places(word) for word in words)


def _value_without_places(text: str) -> str:
    text, fetched, address = _quotes_without_places(text).partition(", http")  # of data: `cache FOLDER, ADDRESS`
    whole = WHOLE.fullmatch(text)
    return (whole[1] + whole[2] if whole else PLACE.sub(r"\1", text)) + fetched + address


def _prose_without_places(text: str) -> str:
    return PLACE.sub(r"\1", _quotes_without_places(text))


def _quotes_without_places(text: str) -> str:
    """With those cut that a pair of quotes holds."""

    def cut(quoted: re.Match[str]) -> str:
        whole = WHOLE.fullmatch(quoted[2])
        return f"{quoted[1]}{whole[1]}{whole[2]}{quoted[1]}" if whole else quoted[0]

    return QUOTED.sub(cut, text)


def _predictions(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run / TEST)["predictions"]
    for name in (WITH, WITHOUT):
        file = run / name / TEST
        if file.is_file():
            found[name.replace("-", " ")] = read_json(file)["predictions"]["student"]
    return found


def _check_same(target: Path, record: dict[str, Any]) -> None:
    file = target / "record.json"
    if file.is_file() and read_json(file)["test_read"] != record["test_read"]:
        raise RunError(f"{target} holds the record of another run of this recipe and seed; move it away first")


def _write(file: Path, text: str) -> None:
    write_whole(file, text + "\n")
