"""The control of a recorded run whose folder is gone: the very control that `attar control` trains, added to the record."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import attar
from safetensors.torch import load_file

from attar.pipeline.control import control
from attar.pipeline.record import write_record
from attar.pipeline.zoo import add


@pytest.fixture(scope="module")
def run_with_control(finished_runs, tmp_path_factory):
    """Run `a` with its control on labels."""
    path = tmp_path_factory.mktemp("run") / "a"
    shutil.copytree(finished_runs / "a", path)
    control(path, with_teacher=False)
    return path


@pytest.fixture
def place(run_with_control, finished_runs, tmp_path, monkeypatch):
    """A zoo with run `a`, and the records of `a` and `b`, without controls and without the runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attar.pipeline.zoo.check_clean", lambda facts: None)
    shutil.copytree(finished_runs / "a", "a")
    write_record("a", "records")
    write_record(finished_runs / "b", "records")
    add(Path("a"), "small", Path("zoo"), Path("records"))
    shutil.rmtree("a")
    return tmp_path


def zoo_control(*options):
    return attar("zoo", "control", "small", *options, "--zoo", "zoo")


def read(path):
    return json.loads(path.read_text())


def test_it_is_the_control_that_the_run_would_have(place, run_with_control):
    said = zoo_control("--without-teacher")
    assert said.exit_code == 0, said.output
    folder = place / "runs/digits-0/control-without-teacher"
    theirs = run_with_control / "control-without-teacher"
    ours, wanted = (load_file(path / "artifact/model.safetensors") for path in (folder, theirs))
    assert ours.keys() == wanted.keys() and all(tensor.equal(ours[name]) for name, tensor in wanted.items())
    (entry,) = read(place / "records/digits/0/record.json")["controls"]
    (expected,) = read(run_with_control / "artifact/report.json")["controls"]
    for key in ("name", "test", "held_out", "images_seen", "params", "mcnemar"):
        assert entry[key] == expected[key], key
    answers = read(place / "records/digits/0/predictions.json")
    assert answers["control without teacher"] == read(theirs / "test.json")["predictions"]["student"]
    curve = (place / "records/digits/0/control-without-teacher.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in curve] == read(folder / "artifact/report.json")["learning_curves"]
    card = (place / "zoo/small/README.md").read_text()
    assert "control without teacher" in card and "No control" not in card


def test_a_record_has_the_curves_of_the_controls(run_with_control, tmp_path):
    place = write_record(run_with_control, tmp_path)
    curve = (place / "control-without-teacher.jsonl").read_text().splitlines()
    report = read(run_with_control / "control-without-teacher/artifact/report.json")
    assert [json.loads(line) for line in curve] == report["learning_curves"]
    assert not (place / "control-with-teacher.jsonl").exists()


def test_given_again_it_changes_nothing_and_another_is_refused(place):
    assert zoo_control("--without-teacher").exit_code == 0
    files = ("records/digits/0/record.json", "records/digits/0/predictions.json", "zoo/small/README.md")
    before = [(place / file).read_bytes() for file in files]
    assert zoo_control("--without-teacher").exit_code == 0
    assert before == [(place / file).read_bytes() for file in files]
    said = zoo_control("--without-teacher", "--out", "runs/again")
    assert said.exit_code == 2 and "has a control without teacher already" in said.output
    assert not (place / "runs/again").exists()
    said = zoo_control("--without-teacher", "distil.train.learning_rate=0.01")
    assert said.exit_code == 2 and "trained otherwise" in said.output


def test_what_was_added_to_the_record_meanwhile_stays(place, monkeypatch):
    from attar.pipeline import zoo_control as module

    record = place / "records/digits/0/record.json"
    train = module.run

    def run_beside_another(*arguments):
        train(*arguments)
        facts = read(record)
        facts["controls"] = [{"name": "control with teacher", "test_read": "then"}]
        record.write_text(json.dumps(facts))

    monkeypatch.setattr(module, "run", run_beside_another)
    monkeypatch.setattr(module, "renew", lambda zoo, name: None)
    assert zoo_control("--without-teacher").exit_code == 0
    names = [control["name"] for control in read(record)["controls"]]
    assert names == ["control with teacher", "control without teacher"]


def test_a_teacher_that_was_taught_is_gone(place):
    said = zoo_control()
    assert said.exit_code == 2 and "records keep no weights; there is --without-teacher" in said.output


def test_a_record_of_another_seed_has_to_have_the_shape(place):
    record, own = place / "records/digits/1/record.json", place / "records/digits/0/record.json"
    said = zoo_control("--without-teacher", "--seed", "1", "distil.train.learning_rate=0.01")
    assert said.exit_code == 0, said.output
    assert [control["name"] for control in read(record)["controls"]] == ["control without teacher"]
    assert not read(own)["controls"]
    facts = read(record)
    facts["frontier"][-1]["widths"] |= {"stem.0.weight": 3}
    record.write_text(json.dumps(facts))
    said = zoo_control("--without-teacher", "--seed", "1")
    assert said.exit_code == 2 and "ended in another shape" in said.output
    said = zoo_control("--without-teacher", "--seed", "7")
    assert said.exit_code == 2 and "there is no record at" in said.output


@pytest.mark.parametrize(
    ("part", "key", "value", "expected"),
    [
        ("data", "source", "evil:go", "evil:go"),
        ("data", "source", "hf:somebody/something", "hf:somebody/something"),
        ("distil", "loss", "evil:go", "evil:go"),
        ("prune", "importance", "evil:go", "evil:go"),
        ("student", "model", "evil:go", "asks to run 'evil:go'"),
        ("teacher", "model", "evil:go", "asks to run 'evil:go'"),
    ],
)
def test_a_record_runs_no_code_of_its_own(place, part, key, value, expected):
    (place / "evil.py").write_text("raise SystemExit('a stranger was run')")
    record = place / "records/digits/0/record.json"
    facts = read(record)
    facts["recipe"][part][key] = value
    record.write_text(json.dumps(facts))
    said = zoo_control("--without-teacher")
    assert said.exit_code == 2 and expected in said.output and "student.shape" in said.output


def test_other_data_are_refused(place):
    record = place / "records/digits/0/record.json"
    facts = read(record)
    facts["data"]["fingerprint"] = "0" * 64
    record.write_text(json.dumps(facts))
    said = zoo_control("--without-teacher")
    assert said.exit_code == 2 and "is of other data" in said.output
