"""What a run was started on stays what its controls and comparisons are about, also where data or files change meanwhile."""

import json

import numpy as np
import pytest
from command_line import attar
from small_runs import DIGITS, small

from attar.data import load_data
from attar.pipeline import RunError, run
from attar.pipeline.folder import RunFolder
from attar.pipeline.rehearsal import rehearse
from attar.recipe import changed, load_recipe

SHORT = small("teacher.train.epochs=0.2", "distil.train.epochs=0.2", "prune.steps=1", "data.held_out=20")
RECIPE = load_recipe(DIGITS, (*SHORT, "data.source=npz:d.npz"))


def write(path, darker=0):
    """A hundred digits for training, fifty for testing."""
    digits = load_data("digits")
    images, labels = digits.images.numpy(), digits.labels.numpy()
    np.savez(
        path, x_train=images[:100] // (1 + darker), y_train=labels[:100], x_test=images[100:150], y_test=labels[100:150]
    )


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A run up to its export, and the same file of data elsewhere with other images."""
    for name, darker in (("one", 0), ("two", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "d.npz", darker)
    monkeypatch.chdir(tmp_path / "one")
    run(RECIPE, tmp_path / "run", until="export")
    return tmp_path


def test_a_control_learns_from_the_data_of_its_run(started, monkeypatch):
    monkeypatch.chdir(started / "two")
    said = attar("control", started / "run")
    assert said.exit_code == 2 and "was run on other data than 'npz:d.npz' holds now" in said.output
    assert not (started / "run/control-with-teacher/distil.safetensors").exists()
    monkeypatch.chdir(started)
    said = attar("control", started / "run")
    assert said.exit_code == 2 and "looked for from the directory that the command is given in" in " ".join(
        said.output.split()
    )
    monkeypatch.chdir(started / "one")
    said = attar("control", started / "run")
    assert said.exit_code == 0, said.output


def test_points_of_a_sweep_are_of_the_same_data(started):
    arguments = [*SHORT, "data.source=npz:d.npz", "--out", "sweep"]
    assert attar("sweep", DIGITS, *arguments, "distil.temperature=1,2").exit_code == 0
    write("d.npz", darker=1)
    said = attar("sweep", DIGITS, *arguments, "distil.temperature=1,2,3")
    assert said.exit_code == 2 and "cannot be compared" in said.output
    said = attar("compare", "sweep/distil.temperature=1", "sweep/distil.temperature=2", "--held-out")
    assert said.exit_code == 0


def test_a_result_that_was_deleted_is_made_again_and_later_curves_stay(started):
    folder = RunFolder(started / "run")
    before = folder.metrics()
    (started / "run/distil.safetensors").unlink()
    run(RECIPE, started / "run", until="export")
    after = folder.metrics()

    def known(lines):
        return sorted(json.dumps({k: v for k, v in line.items() if "second" not in k}) for line in lines)

    assert known(before) == known(after) and {line["stage"] for line in after} == {"teach", "distil", "prune"}


def test_what_is_exported_may_change_until_it_is(started):
    run(RECIPE, started / "fresh", until="distil")
    run(changed(RECIPE, ["export.pt2=true"]), started / "fresh", until="export")
    assert json.loads((started / "fresh/run.json").read_text())["recipe"]["export"]["pt2"] is True
    assert (started / "fresh/artifact/model.pt2").is_file()
    with pytest.raises(RunError, match=r"another recipe.*\n.*export.pt2: true -> false"):
        run(RECIPE, started / "fresh")


def test_damaged_files_are_named(started):
    def refused(expected):
        with pytest.raises(RunError, match=expected):
            run(RECIPE, started / "run")

    path = started / "run"
    lines = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text("?\n" + lines)
    refused(r"metrics.jsonl is damaged: line 1 .* delete that line")
    (path / "metrics.jsonl").write_text(lines)
    (path / "artifact").rename(path / "moved")
    refused("artifact is gone: it was moved or deleted. Put it back")
    (path / "moved").rename(path / "artifact")
    whole = (path / "run.json").read_text()
    (path / "run.json").write_text("{}")
    refused(r"run.json is damaged \(it has no 'recipe'\)")
    (path / "run.json").write_text(whole)
    run(RECIPE, path)
    (path / "test.json").write_text("{}")
    refused(r"test.json is damaged \(it has no 'read'\)")


def test_weights_of_a_network_whose_code_changed_are_told(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from attar import build\n\ndef net(in_channels=1, classes=10):\n"
        "    return build('separable_resnet', widths=[WIDTH, 12], depths=[1, 1], in_channels=in_channels, classes=classes)\n"
        "\nWIDTH = 8\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe(DIGITS, (*SHORT, "student.model=own:net", "student.arguments={}"))
    run(recipe, tmp_path / "run", until="distil")
    import own

    own.WIDTH = 6
    with pytest.raises(RunError, match="holds weights of another network than the recipe builds now"):
        run(recipe, tmp_path / "run")
    with pytest.raises(RunError, match="holds weights of another network"):
        rehearse(recipe, tmp_path / "run")
