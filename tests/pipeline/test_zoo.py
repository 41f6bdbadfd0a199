"""The zoo: only clean, recorded, verified runs come in; what comes out is what was recorded."""

import json
import shutil

import pytest
from command_line import attar, cells
from small_runs import DIGITS, SMALL

from attar.artifact import verify
from attar.pipeline import environment, run
from attar.pipeline.folder import RunError
from attar.pipeline.record import write_record
from attar.pipeline.watch import Silent
from attar.recipe import load_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def with_commit(folder, commit):
    """A run as if that commit had made it."""
    report = folder / "artifact/report.json"
    facts = json.loads(report.read_text())
    for part in (facts["environment"], *facts["starts"]):
        part["commit"] = commit
    text = json.dumps(facts)
    from attar.artifact import write_files

    write_files(folder / "artifact", {"report.json": text})


@pytest.fixture(scope="module")
def place(finished_runs, tmp_path_factory):
    """A folder with a run `a` of a clean commit, its record, and a zoo that holds it as `small`."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(finished_runs / "a", place / "a")
    with_commit(place / "a", COMMIT)
    assert attar("record", place / "a", place / "records").exit_code == 0
    said = zoo(place, "add", place / "a", "small", "--records", place / "records")
    assert said.exit_code == 0, said.output
    return place


def zoo(place, *arguments):
    return attar("zoo", *arguments, "--zoo", place / "zoo")


def test_the_table_has_the_figures_of_the_record(place):
    record = json.loads((place / "records/digits/0/record.json").read_text())
    said = zoo(place, "list").output
    assert f"{record['cost']['after']['params']:,}" in said and cells(said, "small")
    assert f"{100 * record['test']['student']['accuracy']:.2f} %" in said
    card = (place / "zoo/small/README.md").read_text()
    for wanted in (COMMIT, "held", record["command"], "(../../records/digits/0)", "control"):
        assert wanted in card, wanted
    assert "[small](small/README.md)" in (place / "zoo/README.md").read_text()
    assert not list((place / "zoo").rglob("report.json"))


def test_an_artifact_is_copied_verified(place, tmp_path):
    assert zoo(place, "get", "small", tmp_path / "mine").exit_code == 0
    assert verify(tmp_path / "mine")
    assert zoo(place, "get", "small", tmp_path / "mine").exit_code == 2  # nothing is overwritten
    said = zoo(place, "get", "large", tmp_path / "other")
    assert said.exit_code == 2 and "it has small" in said.output


def test_the_same_again_changes_nothing(place):
    before = {file: file.read_bytes() for file in (place / "zoo").rglob("*") if file.is_file()}
    said = zoo(place, "add", place / "a" / "artifact", "small", "--records", place / "records")
    assert said.exit_code == 0, said.output
    assert before == {file: file.read_bytes() for file in (place / "zoo").rglob("*") if file.is_file()}


def test_a_zoo_elsewhere_is_told_where_there_is_no_other(place, monkeypatch):
    def none(*places):
        raise RunError("there is no zoo")

    monkeypatch.setattr("attar.pipeline.zoo.find_zoo", none)
    said = zoo(place, "add", place / "a", "small", "--records", place / "records")
    assert said.exit_code == 0, said.output
    assert f"--zoo {place / 'zoo'}" in said.output.replace("\n", "")


def test_every_answer_is_held_against_the_record(place, tmp_path):
    said = zoo(place, "eval", "small")
    assert said.exit_code == 0 and "every single answer" in said.output
    other = tmp_path / "other"
    shutil.copytree(place, other)
    file = other / "records/digits/0/predictions.json"
    predictions = json.loads(file.read_text())
    predictions["student"][7] = (predictions["student"][7] + 1) % 10
    file.write_text(json.dumps(predictions))
    said = zoo(other, "eval", "small")
    assert said.exit_code == 1 and "MISMATCH: 1 images get another class than recorded: 7" in said.output


@pytest.mark.parametrize("source", ["evil:go", "hf:somebody/something"])
def test_a_record_opens_no_data_that_take_the_users_word(place, tmp_path, monkeypatch, source):
    other = tmp_path / "other"
    shutil.copytree(place, other)
    file = other / "records/digits/0/record.json"
    record = json.loads(file.read_text())
    record["recipe"]["data"]["source"] = source
    file.write_text(json.dumps(record))
    (tmp_path / "evil.py").write_text("raise SystemExit('a stranger was run')")
    monkeypatch.chdir(tmp_path)
    said = zoo(other, "eval", "small")
    assert said.exit_code == 2 and f"say --data {source}" in said.output
    assert zoo(other, "eval", "small", "--data", "digits").exit_code == 0


def test_a_changed_artifact_does_not_come_out(place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place, other)
    weights = other / "zoo/small/artifact/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for command in (("get", "small", tmp_path / "mine"), ("eval", "small")):
        assert zoo(other, *command).exit_code == 2, command
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("commit, expected", [(COMMIT + "+changes", "edited code"), (None, "does not know the commit")])
def test_runs_of_edited_or_unknown_code_are_refused(place, tmp_path, commit, expected):
    run = tmp_path / "a"
    shutil.copytree(place / "a", run)
    with_commit(run, commit)
    said = zoo(tmp_path, "add", run, "small", "--records", place / "records")
    assert said.exit_code == 2 and expected in said.output
    assert not (tmp_path / "zoo").exists()


def test_a_run_that_went_on_with_edited_code_is_refused_and_its_report_says_so(
    place, finished_runs, tmp_path, monkeypatch
):
    """Stopped and given again: what the first start knew is not all. Of a finished run nothing but the pages is made again."""
    out = tmp_path / "a"
    shutil.copytree(place / "a", out)
    facts = json.loads((out / "run.json").read_text())
    facts["environment"]["commit"] = COMMIT
    (out / "run.json").write_text(json.dumps({**facts, "starts": ["attar run digits.toml"]}))  # as older runs have it
    notes = []
    watcher = Silent()
    watcher.note = notes.append
    monkeypatch.setattr(environment, "_commit", lambda: COMMIT)
    for _ in range(2):
        run(load_recipe(DIGITS, SMALL), out, watcher)
    assert not notes
    assert zoo(tmp_path, "add", out, "small", "--records", place / "records").exit_code == 0
    monkeypatch.setattr(environment, "_commit", lambda: COMMIT + "+changes")
    run(load_recipe(DIGITS, SMALL), out, watcher)
    assert not notes and json.loads((out / "run.json").read_text())["starts"] == ["attar run digits.toml"]
    for name in ("export.safetensors", "test.json"):
        (out / name).unlink()
    for _ in range(2):
        run(load_recipe(DIGITS, SMALL), out, watcher)
    assert len(notes) == 1 and f"commit {COMMIT} before, {COMMIT}+changes now" in notes[0]
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [start if isinstance(start, str) else start["commit"][40:] for start in starts] == [
        "attar run digits.toml", "+changes"
    ]  # fmt: skip
    assert f"| commit | {COMMIT}, then {COMMIT}+changes |" in (out / "artifact/report.md").read_text()
    write_record(out, tmp_path / "records")
    said = zoo(tmp_path, "add", out, "other", "--records", tmp_path / "records")
    assert said.exit_code == 2 and "edited code" in said.output


def test_runs_without_a_record_and_taken_names_are_refused(place, finished_runs, tmp_path):
    said = zoo(tmp_path, "add", place / "a", "small", "--records", tmp_path / "records")
    assert said.exit_code == 2 and "not recorded" in said.output
    said = zoo(place, "add", finished_runs / "cold", "small", "--records", place / "records")
    assert said.exit_code == 2 and "record of another run" in said.output
    other = tmp_path / "b"
    shutil.copytree(finished_runs / "b", other)
    with_commit(other, COMMIT)
    assert attar("record", other, place / "records").exit_code == 0
    said = zoo(place, "add", other, "small", "--records", place / "records")
    assert said.exit_code == 2 and "another run's artifact" in said.output
    said = zoo(place, "add", other, "../small", "--records", place / "records")
    assert said.exit_code == 2 and "is no name" in said.output


def test_a_missing_zoo_says_where_it_was_looked_for(tmp_path):
    said = attar("zoo", "list", "--zoo", tmp_path / "none")
    assert said.exit_code == 2 and str(tmp_path / "none") in said.output and "--zoo" in said.output
