"""int8: decided on held-out images, fine-tuned for where it loses too much, told side by side."""

import json
import shutil
from pathlib import Path

import pytest

from attar.artifact import INT8, verify
from attar.pipeline import run
from attar.recipe import load_recipe

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.toml"
SHORT = (
    "compute.precision=fp32", "compute.device=cpu", "compute.threads=1", "distil.alpha=0",
    "teacher.arguments.widths=[4,4,4]", "teacher.train.epochs=0.1", "teacher.train.warmup=0",
    "student.arguments.widths=[4,6,8]", "distil.train.epochs=1", "distil.train.warmup=0",
    "prune.steps=1", "prune.train.epochs=0.2", "prune.final.epochs=1", "export.pt2=false", "export.int8_finetune=1",
    "data.held_out=600",
)  # fmt: skip


def row_of(facts: dict) -> dict:
    return next(row for row in facts["views"] if row["name"] == INT8)


@pytest.fixture(scope="module")
def forced(tmp_path_factory) -> tuple[Path, dict]:
    """A run whose limit on int8's loss is so low that fine-tuning for it always follows."""
    out = tmp_path_factory.mktemp("int8") / "run"
    return out, run(load_recipe(DIGITS, (*SHORT, "export.int8_loss=-100")), out)


def test_both_figures_stand_side_by_side(forced):
    out, facts = forced
    row = row_of(facts)
    int8 = row["int8"]
    assert facts["images_seen"]["int8"] == (837 // 64) * 64  # one epoch
    assert int8["network"] == facts["held_out"]["prune"]
    assert int8["fine_tuned"] is not None and int8["fine_tuned"] > int8["network"] - 0.1
    better = int8["fine_tuned"] > int8["post_training"]
    assert int8["shipped"] == ("fine_tuned" if better and int8["agrees"] else "post_training")
    assert any("after training" in flag and "fine-tuned for int8" in flag for flag in row["flags"])
    assert "fine-tuned for int8" in (out / "artifact" / "report.md").read_text()
    assert verify(out / "artifact").passed
    assert (out / "artifact" / INT8).stat().st_size == row["bytes"]


def copied(run_folder: Path, place: Path, *without: str) -> Path:
    """The run as it was before its export, and before what else is named."""
    shutil.copytree(run_folder, place)
    shutil.rmtree(place / "artifact")
    for name in ("export.safetensors", "test.json", *without):
        (place / name).unlink()
    return place


def test_trained_again_it_ends_in_the_same_bits(forced, tmp_path):
    out, before = forced
    again = copied(out, tmp_path / "again", "int8.safetensors")
    facts = run(load_recipe(DIGITS, (*SHORT, "export.int8_loss=-100")), again)
    assert (again / "artifact" / INT8).read_bytes() == (out / "artifact" / INT8).read_bytes()
    told = [(line["stage"], line["loss"]) for line in before["learning_curves"]]
    assert [(line["stage"], line["loss"]) for line in facts["learning_curves"]] == told


def test_int8_that_holds_is_left_as_it_is(forced, tmp_path):
    out, _ = forced
    kept = copied(out, tmp_path / "kept", "int8.safetensors")
    record = json.loads((kept / "run.json").read_text())
    record["recipe"]["export"]["int8_loss"] = 100.0
    (kept / "run.json").write_text(json.dumps(record))
    facts = run(load_recipe(DIGITS, (*SHORT, "export.int8_loss=100")), kept)
    assert row_of(facts)["int8"]["fine_tuned"] is None
    assert "int8" not in facts["images_seen"] and not (kept / "int8.safetensors").exists()
    assert not any("fine-tuned" in flag for flag in row_of(facts)["flags"])
