"""What came out of a run, read from its folder (or from a record of it) for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar import artifact
from attar.files import write_whole
from attar.pipeline.folder import TEST, RunError, RunFolder, read_json, with_defaults
from attar.recipe import Recipe, check_recipe
from attar.report import comparison_json, comparison_markdown, comparison_plot
from attar.report.compare import Comparison, Outcome, compare
from attar.report.controls import STUDENT_STAGES, images_seen


def compare_runs(paths: Sequence[str | Path], held_out: bool = False) -> Comparison:
    """Lay finished runs (or records) side by side.

    Args:
        paths: run folders, or folders that `attar record` wrote.
        held_out: compare on the held-out images, for runs whose test images were not read.

    Raises:
        RunError: a folder holds no run, or one that has not finished.
        ValueError: fewer than two, or runs on other images.
    """
    names = short_names([Path(path) for path in paths])
    outcomes = [read_outcome(path, name, held_out) for path, name in zip(paths, names)]
    return compare(outcomes, held_out)


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write compare.md, compare.json and, where matplotlib is installed, compare.svg into `folder`; returns the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plot = comparison_plot(comparison)
    if plot is not None:
        write_whole(folder / "compare.svg", plot)
    write_whole(folder / "compare.json", comparison_json(comparison))
    page = folder / "compare.md"
    write_whole(page, comparison_markdown(comparison, "compare.svg" if plot is not None else None))
    return page


def read_outcome(path: str | Path, name: str | None = None, held_out: bool = False) -> Outcome:
    """The outcome of a finished run; `held_out` as in `compare_runs`, `name` is the folder's unless given.

    Raises:
        RunError: as in `compare_runs`.
    """
    path = Path(path)
    name = name or path.name
    if (path / "record.json").is_file():
        return _of_record(path, name, held_out)
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is not a run folder: it has no run.json")
    folder = RunFolder(path)
    if not folder.finished("export"):
        raise RunError(
            f"{path} has not finished: it stopped before {_missing(folder)}; the command it began with goes on"
        )
    folder.check_artifact()
    if not held_out and not (path / TEST).is_file():
        raise RunError(
            f"{path} has not read the test images, so it has no test accuracy; compare on held-out images (--held-out), "
            "or finish the run: `attar run` with the same recipe and --out"
        )
    run, stages = folder.read_json("run.json"), [stage for stage in STUDENT_STAGES if folder.finished(stage)]
    numbers = {stage: folder.numbers(stage) for stage in stages}
    counts = artifact.describe(folder.artifact).counts
    seconds: list[Any] = [
        folder.numbers(stage).get("seconds") for stage in ("teach", *STUDENT_STAGES) if folder.finished(stage)
    ]
    return Outcome(
        name=name,
        recipe=with_defaults(run["recipe"]),
        **(_held_out_hits(folder, run) if held_out else _test_hits(run["data"], folder.read_json(TEST))),
        params=counts["params"],
        macs=counts["macs"],
        bytes=counts["bytes"],
        images_seen=sum(stage["images"] for stage in numbers.values()),
        seconds=None if None in seconds else sum(seconds),
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(path for path, own in zip(paths, parts) if parts.count(own) > 1)
    raise ValueError(f"{twice} is given twice; name each run once")


def held_out_images(facts: dict[str, Any], recipe: Recipe) -> str:
    """The held-out images of a run in words, by the facts of its start; equal words, equal images.

    Runs that scale pictures (`data.size`) may have one set at several sizes, whose fingerprints differ; there the split alone,
    made of the labels, tells.
    """
    split, data = facts["split"], facts["data"]
    content = "" if recipe.data.size is not None else f"{data['fingerprint'][:16]}, "
    return f"{split['held_out']:,} held-out images of {data['name']} ({content}split {split['digest'][:16]})"


def _missing(folder: RunFolder) -> str:
    stages = (
        ("distil", "prune", "export") if folder.read_json("run.json")["recipe"].get("prune") else ("distil", "export")
    )
    return "the end of " + next(stage for stage in stages if not folder.finished(stage))


def _test_hits(data: dict[str, Any], test: dict[str, Any]) -> dict[str, Any]:
    labels, predictions = test["predictions"]["labels"], test["predictions"]["student"]
    correct = tuple(a == b for a, b in zip(labels, predictions, strict=True))
    return {
        "images": f"the test images of {data['name']} ({data['fingerprint'][:16]})",
        "hits": sum(correct),
        "n": len(correct),
        "correct": correct,
    }


def _held_out_hits(folder: RunFolder, run: dict[str, Any]) -> dict[str, Any]:
    """Hits on the held-out images, as the artifact had them at its export."""
    if run["split"]["held_out"] == 0:
        raise RunError(f"{folder.path} held nothing out (data.held_out = 0), so it has no held-out accuracy")
    tensors, numbers = folder.result("export")
    images = held_out_images(run, check_recipe(run["recipe"]))
    if numbers.get("held_out") is None:  # exported before hits were kept
        last = next(folder.numbers(stage) for stage in reversed(STUDENT_STAGES) if folder.finished(stage))
        n = run["split"]["held_out"]
        return {"images": images, "hits": round(last["held_out"] * n), "n": n, "correct": None}
    correct = tuple((tensors["labels"] == tensors["predictions"]).tolist())
    return {"images": images, "hits": sum(correct), "n": len(correct), "correct": correct}


def _of_record(path: Path, name: str, held_out: bool) -> Outcome:
    record = read_json(path / "record.json")
    if held_out:
        raise RunError(f"{path} is a record, which holds predictions of the test images only; leave --held-out away")
    predictions = read_json(path / "predictions.json")
    seconds: list[Any] = [
        record["seconds"][stage] for stage in ("teach", *STUDENT_STAGES) if stage in record["seconds"]
    ]
    after = record["cost"]["after"]
    return Outcome(
        name=name,
        recipe=with_defaults(record["recipe"]),
        **_test_hits(record["data"], {"predictions": predictions}),
        params=after["params"],
        macs=after["macs"],
        bytes=after["bytes"],
        images_seen=images_seen(record),
        seconds=None if None in seconds else sum(seconds),
    )
