"""What a run's report says of its controls, read from their folders within the run's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar.pipeline.folder import TEST, RunFolder, images_of, read_json
from attar.report import mcnemar

WITH, WITHOUT = "control-with-teacher", "control-without-teacher"
"""Folders of the controls, within the run's."""


def control_facts(run: Path, test: dict[str, Any]) -> list[dict[str, Any]]:
    """Facts of the finished controls of a run; those without a test reading, or of other data, are left out.

    Args:
        run: the run's folder.
        test: what the run's `test.json` holds.
    """
    finished = [run / name for name in (WITH, WITHOUT) if (run / name / "artifact" / "report.json").is_file()]
    images = {folder: images_of(RunFolder(folder).read_json("run.json")) for folder in (run, *finished)}
    return [control_of(folder, test) for folder in finished if images[folder] == images[run]]


def control_of(folder: Path, test: dict[str, Any]) -> dict[str, Any]:
    """Facts of one finished control, beside the answers of what it is the control of (`test`, as above)."""
    report = read_json(folder / "artifact" / "report.json")
    own = read_json(folder / TEST)["predictions"]
    labels = own["labels"]
    paired = mcnemar(_right(labels, test["predictions"]["student"]), _right(labels, own["student"]))
    return {
        "name": folder.name.replace("-", " "),
        "test": report["test"]["student"],
        "test_read": report["test_read"],
        "held_out": report["held_out"]["distil"],
        "images_seen": report["images_seen"]["distil"],
        "seconds": report["seconds"]["distil"],
        "params": report["cost"]["after"]["params"],
        "mcnemar": asdict(paired),
        "commit": report["environment"]["commit"],
    }


def _right(labels: list[int], predictions: list[int]) -> list[bool]:
    return [label == prediction for label, prediction in zip(labels, predictions, strict=True)]
