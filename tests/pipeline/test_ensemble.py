"""Teachers as ensembles: the mean of probabilities; taught one after the other; resumable; as good as given weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import DIGITS, SMALL

from attar.distil import read_outputs
from attar.distil.ensemble import Ensemble
from attar.models import build
from attar.pipeline import Interrupted, run, stage_loop
from attar.pipeline.control import control_recipe
from attar.pipeline.filling import export_outputs, fill_pool
from attar.pipeline.ranks import trainings
from attar.pipeline.watch import Silent
from attar.recipe import RecipeError, check_recipe, load_recipe
from attar.report import teacher_name

TRAIN = {"epochs": 0.5, "batch": 64}
MEMBER = {"model": "resnet20", "arguments": {"widths": [4, 4, 4]}, "train": TRAIN}


def ensemble_recipe(*members, **teacher):
    plain = load_recipe(DIGITS, SMALL).model_dump(mode="json")
    return check_recipe({**plain, "teacher": {"members": list(members), **teacher}, "prune": None})


def test_an_ensemble_is_the_mean_of_probabilities():
    torch.manual_seed(0)
    members = [build("resnet20", widths=[4, 4, 4]).eval() for _ in range(3)]
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
        logs = Ensemble(members)(images)
    torch.testing.assert_close(logs.exp(), mean)
    torch.testing.assert_close((logs / 4).softmax(1), mean**0.25 / (mean**0.25).sum(1, keepdim=True))


def test_a_bad_member_that_was_brought_is_told(tmp_path):
    guesses, notes = build("resnet20", widths=[4, 4, 4]), []
    torch.nn.init.zeros_(guesses.fc.weight)
    save_file(guesses.state_dict(), tmp_path / "guesses.safetensors")
    brought = {**MEMBER, "train": None, "weights": str(tmp_path / "guesses.safetensors")}

    class Listening(Silent):
        def note(self, text):
            notes.append(text)

    run(ensemble_recipe(brought, MEMBER), tmp_path / "run", Listening(), until="teach")
    said = "\n".join(notes)
    assert "teach-1: the weights that you gave, held-out accuracy" in said
    assert "teach: the mean of 2, held-out accuracy" in said
    assert said.count("hardly does better than guessing") == 1


def test_members_are_taught_in_turn_and_a_stop_does_not_change_the_bits(tmp_path, monkeypatch):
    recipe = ensemble_recipe(MEMBER, {**MEMBER, "arguments": {"widths": [6, 6, 6]}}, MEMBER)
    facts = run(recipe, tmp_path / "whole")
    assert facts["test"]["teacher"]["n"] == 360
    assert facts["images_seen"]["teach"] == 3 * 640
    show = stage_loop.StageLoop._show
    steps = 0

    def stop(loop, *arguments):
        nonlocal steps
        show(loop, *arguments)
        steps += loop.stage == "teach-2"
        if steps == 3:
            loop.save()
            raise Interrupted("here")

    monkeypatch.setattr(stage_loop.StageLoop, "_show", stop)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    run(recipe, tmp_path / "stopped")
    whole, stopped = (load_file(tmp_path / name / "teach.safetensors") for name in ("whole", "stopped"))
    assert all(tensor.equal(stopped[name]) for name, tensor in whole.items())
    artifacts = [(tmp_path / name / "artifact/model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert artifacts[0] == artifacts[1]
    first, third = whole["members.0.conv1.weight"], whole["members.2.conv1.weight"]
    assert not first.equal(third)  # the same recipe, but other first weights
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "stopped")]
    kept = [
        [{k: v for k, v in json.loads(line).items() if k not in ("images_per_second", "seconds")} for line in log]
        for log in logs
    ]
    assert kept[0] == kept[1]

    again = ensemble_recipe(*recipe.model_dump(mode="json")["teacher"]["members"],
                            weights=str(tmp_path / "whole/teach.safetensors"))  # fmt: skip
    given = run(again, tmp_path / "given")
    assert given["test"]["teacher"] == facts["test"]["teacher"]
    assert given["test"]["student"] == facts["test"]["student"]
    with pytest.raises(ValueError, match="pruned nothing"):
        control_recipe(tmp_path / "whole", with_teacher=True)


@pytest.mark.parametrize(
    ("members", "teacher", "expected"),
    [
        ([{**MEMBER, "train": None}], {}, r"members\[0\] \(resnet20\) needs either"),
        ([MEMBER], {"model": "resnet20"}, "leave model out"),
        ([MEMBER], {"train": TRAIN}, "leave train out"),
        ([{**MEMBER, "epoch": 3}], {}, "no such key 'epoch'"),
        ([MEMBER], {"outputs": "file"}, "leave members out"),
    ],
)
def test_ensembles_that_cannot_be_are_refused(members, teacher, expected):
    with pytest.raises(RecipeError, match=expected):
        ensemble_recipe(*members, **teacher)


def test_members_whose_weights_are_brought_together_are_not_taught():
    members = [{"model": "resnet20", "train": {"epochs": 1, "batch": 2}}] * 2
    recipe = {
        "name": "brought",
        "data": {"source": "digits"},
        "student": {"model": "resnet20"},
        "distil": {"train": {"epochs": 1, "batch": 2}},
    }
    for teacher, expected in (
        ({"members": members}, ["distil.train", "teacher.members[0].train", "teacher.members[1].train"]),
        ({"members": members, "weights": "both.safetensors"}, ["distil.train"]),
    ):
        assert [place for place, _ in trainings(check_recipe({**recipe, "teacher": teacher}))] == expected


def test_a_bad_member_is_named_before_anything_runs(tmp_path):
    recipe = ensemble_recipe(MEMBER, {**MEMBER, "model": "resnt20"})
    with pytest.raises(RecipeError, match=r"teacher.members\[1\].model = 'resnt20'.*did you mean"):
        run(recipe, tmp_path / "run")


def test_a_file_of_an_ensembles_outputs_is_told_by_its_members(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    plain = ensemble_recipe(MEMBER, {**MEMBER, "model": "resnet56"}).model_dump(mode="json")
    fill_pool(check_recipe({**plain, "distil": {**plain["distil"], "view_pool": 1}}), tmp_path / "run")
    export_outputs(str(tmp_path / "run"), tmp_path / "outputs.safetensors")
    facts = read_outputs(tmp_path / "outputs.safetensors", 4.0).facts
    assert teacher_name(facts["teacher"]) == "resnet20 + resnet56"
