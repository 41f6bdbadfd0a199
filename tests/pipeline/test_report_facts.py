"""report.json, report.md and the page's data say the same, of a real run."""

import json

import pytest


@pytest.fixture(scope="module")
def told(finished_runs):
    folder = finished_runs / "a" / "artifact"
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text(), folder


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
