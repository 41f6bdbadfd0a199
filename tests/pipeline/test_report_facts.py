"""report.json, report.md and the page's data say the same, of a real run."""

import json
import shutil

import pytest
from small_runs import DIGITS, SMALL

from attar.artifact.folder import WEIGHTS
from attar.pipeline import folder as folder_module
from attar.pipeline import run
from attar.recipe import RecipeError, load_recipe
from attar.report.views import views_section
from attar.train import CheckpointError


@pytest.fixture(scope="module")
def told(finished_runs):
    folder = finished_runs / "a" / "artifact"
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text(), folder


def test_a_recipe_may_be_a_dictionary(told, tmp_path):
    facts, _, folder = told
    shutil.copytree(folder.parent, tmp_path / "run")
    assert run(facts["recipe"], tmp_path / "run")["test"] == facts["test"]
    with pytest.raises(RecipeError, match="recipe: student: must be given"):
        run({"name": "x", "data": {"source": "digits"}}, tmp_path / "other")


def test_the_teachers_bytes_are_those_of_its_file(told):
    """As the student's are: a header of names and shapes included."""
    facts, _, folder = told
    same = facts["cost"]["before"]  # the teacher has the student's shape before pruning
    assert facts["cost"]["teacher"] == same and facts["cost"]["after"]["bytes"] == (folder / WEIGHTS).stat().st_size


def test_confusion_and_mistakes_are_those_of_the_predictions(told):
    facts, text, folder = told
    predictions = json.loads((folder / "predictions.json").read_text())
    matrix, test = facts["confusion"]["matrix"], facts["test"]["student"]
    assert sum(map(sum, matrix)) == test["n"] and sum(matrix[i][i] for i in range(10)) == test["hits"]
    mistakes = facts["mistakes"]
    assert mistakes["total"] == test["n"] - test["hits"]
    for row in mistakes["shown"]:
        assert row["label"] == predictions["labels"][row["index"]] != row["student"]
        assert row["teacher"] == predictions["teacher"][row["index"]]
        assert 0.1 <= row["student_confidence"] <= 1 and 0.1 <= row["teacher_confidence"] <= 1
    for title in (
        "## Cost",
        "## Widths per layer",
        "## Learning",
        "## Confusion",
        "## Mistakes",
        "## Where it comes from",
    ):
        assert title in text
    assert f"| {mistakes['shown'][0]['index']} |" in text
    assert facts["test_read"] in text and facts["command"] in text


def test_costs_are_held_against_the_teacher(told):
    facts, text, folder = told
    cost, latency = facts["cost"], facts["latency"]
    assert cost["teacher"]["params"] > cost["after"]["params"]
    assert cost["teacher"]["bytes"] >= 4 * cost["teacher"]["params"]
    assert set(latency) == {"teacher", "before", "after"} and min(latency.values()) > 0
    assert f"{cost['teacher']['params']:,}" in text and f"{cost['teacher']['macs']:,}" in text
    paired = facts["against_teacher"]
    gained = facts["test"]["student"]["hits"] - facts["test"]["teacher"]["hits"]
    assert paired["first_only"] - paired["second_only"] == gained
    page = (folder / "report.html").read_text()
    assert "than the teacher" in page and len(page.encode()) < 3_000_000


def test_a_name_with_a_bar_stays_in_its_cell():
    page = views_section({"views": [{"name": "a|b", "error": "none", "flags": ["failed"]}]})
    assert "| `a\\|b` |" in page


def test_a_finished_run_is_reported_again_without_reading_its_checkpoints(finished_runs, tmp_path, monkeypatch):
    shutil.copytree(finished_runs / "a", tmp_path / "a")
    folder = folder_module.RunFolder(tmp_path / "a")
    for stage in ("teach", "distil", "prune", "export"):
        assert folder.numbers(stage) == folder.result(stage)[1]
    (tmp_path / "a/distil.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"distil\.safetensors is damaged"):
        folder.numbers("distil")
    shutil.copy(finished_runs / "a/distil.safetensors", tmp_path / "a")
    monkeypatch.setattr(folder_module, "read_checkpoint", None)
    before = json.loads((tmp_path / "a/artifact/report.json").read_text())
    again = run(load_recipe(DIGITS, SMALL), tmp_path / "a")
    assert all(again[key] == before[key] for key in ("frontier", "held_out", "images_seen", "seconds", "peak_memory"))
