"""Runs side by side: the figures are those of the runs, and what cannot be compared is refused."""

import json
import shutil

import pytest
from command_line import attar, cells

from attar.pipeline.outcome import compare_runs
from attar.report import mcnemar


def test_figures_are_those_of_the_reports(finished_runs):
    paths = [finished_runs / name for name in ("a", "b", "cold")]
    comparison = compare_runs(paths)
    reports = [json.loads((path / "artifact/report.json").read_text()) for path in paths]
    predictions = [json.loads((path / "artifact/predictions.json").read_text()) for path in paths]
    for outcome, report in zip(comparison.outcomes, reports):
        assert (outcome.hits, outcome.n) == (report["test"]["student"]["hits"], 360)
        assert list(outcome.interval) == report["test"]["student"]["interval"]
        assert outcome.params == report["cost"]["after"]["params"]
        assert outcome.images_seen == report["images_seen"]["distil"] + report["images_seen"]["prune"]
        assert outcome.seconds > 0
    assert comparison.differences == {"distil.temperature": [4.0, 4.0, 1.0], "seed": [0, 1, 0]}
    (group,) = comparison.groups
    assert group[0] == ("a", "b")
    assert group[1] == pytest.approx(sum(o.accuracy for o in comparison.outcomes[:2]) / 2)
    right = [[a == b for a, b in zip(p["labels"], p["student"])] for p in predictions]
    assert [pair[:2] for pair in comparison.pairs] == [("a", "b"), ("a", "cold"), ("b", "cold")]
    assert comparison.pairs[1][2] == mcnemar(right[0], right[2])


def test_command_prints_and_writes(finished_runs, tmp_path):
    said = attar("compare", finished_runs / "a", finished_runs / "cold", "--out", tmp_path / "page")
    assert said.exit_code == 0, said.output
    assert cells(said.output, "distil.temperature") == ["4.0", "1.0"]
    assert "compare.svg" in (tmp_path / "page" / "compare.md").read_text()
    assert "</svg>" in (tmp_path / "page" / "compare.svg").read_text()
    facts = json.loads((tmp_path / "page" / "compare.json").read_text())
    assert [run["name"] for run in facts["runs"]] == ["a", "cold"]
    assert facts["mcnemar"][0]["exact"] <= 1


def test_held_out_needs_no_test_and_keeps_the_single_predictions(finished_runs, tmp_path):
    unread = tmp_path / "unread"
    shutil.copytree(finished_runs / "a", unread)
    (unread / "test.json").unlink()
    refused = attar("compare", unread, finished_runs / "b")
    assert refused.exit_code == 2
    assert "--held-out" in refused.output
    comparison = compare_runs([unread, finished_runs / "b"], held_out=True)
    report = json.loads((unread / "artifact/report.json").read_text())
    assert comparison.outcomes[0].n == 200
    assert comparison.outcomes[0].accuracy == pytest.approx(report["held_out"]["prune"], abs=0.006)
    assert len(comparison.pairs) == 1


def test_runs_that_cannot_be_compared_are_refused(finished_runs, tmp_path):
    a, b = finished_runs / "a", finished_runs / "b"
    unfinished = tmp_path / "unfinished"
    shutil.copytree(b, unfinished)
    (unfinished / "export.safetensors").unlink()
    (unfinished / "prune.safetensors").unlink()
    unpruned = tmp_path / "unpruned"
    shutil.copytree(unfinished, unpruned)
    facts = json.loads((unpruned / "run.json").read_text())
    (unpruned / "run.json").write_text(json.dumps({**facts, "recipe": {**facts["recipe"], "prune": None}}))
    other = tmp_path / "other"
    shutil.copytree(b, other)
    facts = json.loads((other / "run.json").read_text())
    facts["data"]["fingerprint"], facts["split"]["digest"] = "f" * 64, "e" * 64
    (other / "run.json").write_text(json.dumps(facts))
    (tmp_path / "nothing").mkdir()
    for arguments, expected in (
        ((a, unfinished), "unfinished has not finished: it stopped before the end of prune"),
        ((a, unpruned), "unpruned has not finished: it stopped before the end of export"),
        ((a, other), "a and other cannot be compared"),
        ((a, other, "--held-out"), "a and other cannot be compared"),
        ((a, tmp_path / "nothing"), "no run.json"),
        ((a,), "at least two"),
        ((a, a), "given twice"),
    ):
        refused = attar("compare", *arguments)
        assert refused.exit_code == 2, refused.output
        assert expected in refused.output
