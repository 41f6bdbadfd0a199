"""attar compress: a run from a few words, on the user's own teacher and pictures."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from attar.cli.app import app
from attar.data import load_data, split
from attar.models import build
from attar.pipeline.compress import Wish, compress_recipe, run_name
from attar.recipe import Budget, check_recipe, load_recipe, recipe_toml

WIDTHS = "widths=[4,6,8]"
QUICK = ["--epochs", "0.5", "prune.steps=2", "export.onnx=false", "export.pt2=false"]


def attar(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A teacher that has learnt something, as a training script saves it under DataParallel."""
    data = load_data("digits")
    torch.manual_seed(0)
    model = build("resnet20", widths=[4, 6, 8])
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x = (data.images.float() - 76.5) / 102
    for _ in range(3):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), data.labels[batch]).backward()
            optimiser.step()
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, file)
    return file


@pytest.fixture(scope="module")
def pruned(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("compress") / "run"
    command = ["compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", weights,
               "--data", "digits", "--params", "50%", "--out", out, *QUICK]  # fmt: skip
    result = attar(*command)
    assert result.exit_code == 0, result.output
    return out, command, result.output


def test_the_teacher_is_pruned_with_itself_as_teacher(pruned):
    out, _, said = pruned
    report = json.loads((out / "artifact" / "report.json").read_text())
    assert report["images_seen"]["teach"] == report["images_seen"]["distil"] == 0
    assert report["held_out"]["teach"] == report["held_out"]["distil"]
    assert report["frontier"][0]["cost"]["params"] == report["cost"]["before"]["params"]
    assert report["cost"]["after"]["params"] <= report["budget"]["params"] == report["cost"]["before"]["params"] // 2
    assert 'params = "50%"' in said


def test_the_recipe_is_kept_and_reads_back_as_the_run(pruned, tmp_path):
    out, command, _ = pruned
    kept = load_recipe(out / "recipe.toml")
    assert kept.model_dump(mode="json") == json.loads((out / "run.json").read_text())["recipe"]
    again = attar(*command)
    assert again.exit_code == 0
    assert "done before" in again.output


def test_a_run_folder_is_found_where_none_is_given(weights, tmp_path, monkeypatch):
    command = ["compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", weights,
               "--data", "digits", "--params", "50%", *QUICK, "prune.steps=1", "--epochs", "0.1"]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert attar(*command, "--dry-run").exit_code == 0
    assert not Path("runs").exists()
    assert attar(*command).exit_code == 0
    assert Path("runs/resnet20-compressed/artifact/manifest.json").is_file()


@pytest.mark.parametrize(
    "builder, name", [("hf:../my net/x", "hf-..-my-net-x-compressed"), ("own.nets:a", "own.nets-a-compressed")]
)
def test_a_run_is_called_by_one_part_of_a_path(builder, name):
    assert run_name(builder) == name


def test_a_student_is_distilled_first(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    data = load_data("digits")
    for number in range(120):
        place = folder / f"digit {data.labels[number]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[number, 0].numpy()).save(place / f"{number}.png")
    result = attar(
        "compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", weights,
        "--data", f"folder:{folder}", "--student", "resnet20",
        "--student-argument", "widths=[4,4,6]", "--macs", "60%", "--out", tmp_path / "run", *QUICK,
        "distil.train.epochs=0.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "artifact" / "report.json").read_text())
    assert report["images_seen"]["distil"] > 0
    assert report["cost"]["after"]["macs"] <= report["budget"]["macs"]
    picture = next(folder.rglob("*.png"))
    assert "digit " in attar("predict", tmp_path / "run" / "artifact", picture).output


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"conv1.weight": torch.zeros(4, 3, 3, 3)}, "for images of 3 channels, the data's have 1"),
        ({"fc.weight": torch.zeros(100, 8)}, "tell 100 classes apart, the data has 10"),
        ({"extra": torch.zeros(1)}, "1 tensors too many (first: extra)"),
    ],
)
def test_weights_of_other_networks_are_refused_in_words(tmp_path, change, expected):
    state = build("resnet20", widths=[4, 6, 8]).state_dict()
    names = {"conv1.weight": next(iter(state)), "fc.weight": next(name for name in state if state[name].dim() == 2)}
    file = tmp_path / "other.safetensors"
    save_file({**state, **{names.get(name, name): tensor for name, tensor in change.items()}}, file)
    result = attar("compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", file,
                   "--data", "digits", "--params", "50%", "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 2
    assert expected in result.output
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_weights_that_are_code_are_not_unpickled(tmp_path):
    file = tmp_path / "whole.pth"
    torch.save(build("resnet20", widths=[4, 6, 8]), file)
    result = attar("compress", "--teacher", "resnet20", "--weights", file, "--data", "digits", "--params", "50%",
                   "--teacher-argument", WIDTHS, "--out", tmp_path / "run")  # fmt: skip
    assert result.exit_code == 2
    assert "does not unpickle" in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "nothing to do: give a limit"),
        (["--params", "5"], "smallest"),
        (["--params", "50%", "--epochs", "0"], "--epochs 0: give a number above 0"),
        (["--params", "50%", "--student", "resnt20"], "did you mean 'resnet20'"),
        (["--params", "50%", "--mean", "0.5,0.5,0.5", "--std", "1,1,1"], "the images have 1 channels"),
        (["--params", "50%", "--mean", "0.5"], "mean and std go together"),
        (["--params", "50%", "prune.stepps=2"], "did you mean 'steps'"),
    ],
)
def test_wishes_that_cannot_be_met(weights, tmp_path, arguments, expected):
    result = attar("compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", weights,
                   "--data", "digits", "--out", tmp_path / "run", *arguments)  # fmt: skip
    assert result.exit_code == 2, result.output
    assert expected in result.output


def test_recipes_survive_being_written():
    values = {
        "name": 'a "quoted" näme',
        "data": {"source": "npz:./x y.npz", "mean": [0.5, 1e-05, 0.25], "std": [1.0, 2.0, 3.0]},
        "student": {"model": "resnet20", "arguments": {"widths": [1, 2], "deep": {"odd key": True}}},
        "distil": {"alpha": 0.0, "train": {"epochs": 0.25}},
        "prune": {"budget": Budget(params="25%", latency="5ms"), "floors": {"*.conv": 0.5}, "train": {"epochs": 1.0}},
    }
    recipe = check_recipe(values)
    import tomllib

    for whole in (False, True):
        assert check_recipe(tomllib.loads(recipe_toml(recipe, whole))) == recipe


def test_nothing_is_left_without_weights_or_training():
    from attar.recipe import RecipeError

    values = {"name": "x", "data": {"source": "digits"}, "student": {"model": "cnn5"}, "distil": {"alpha": 0.0}}
    with pytest.raises(RecipeError, match=r"needs a \[distil.train\] table"):
        check_recipe(values)


@pytest.mark.parametrize("count", [12, 15, 25, 300])
def test_few_images_leave_each_class_one_to_learn_from(count):
    digits = load_data("digits")
    few = dataclasses.replace(digits, images=digits.images[:count], labels=digits.labels[:count])
    recipe = compress_recipe(Wish("cnn5", "none.pth", {"source": "digits"}, Budget(params="50%")), few)
    parts = split(few.labels, recipe.data.held_out, 0)
    assert len(parts.held_out) > 0 and set(few.labels[parts.train].tolist()) == set(few.labels.tolist())


@pytest.mark.parametrize("steps", [None, 1, 3, 40])
def test_epochs_are_shared_out_among_the_steps(steps):
    wish = Wish("resnet20", "none.pth", {"source": "digits"}, Budget(params="50%"), epochs=6, steps=steps)
    settings = compress_recipe(wish, load_data("digits")).prune
    assert settings.steps == (steps or 10)
    between = (settings.steps - 1) * settings.train.epochs  # what follows the last step is the last fine-tuning
    assert between + settings.final.epochs == pytest.approx(6, abs=0.01)


def test_the_number_of_steps_is_read_from_the_overrides(weights):
    said = attar("compress", "--teacher", "resnet20", "--teacher-argument", WIDTHS, "--weights", weights, "--data", "digits",
                 "--params", "50%", "--epochs", "6", "prune.steps=3", "--dry-run")  # fmt: skip
    assert said.exit_code == 0, said.output
    settings = tomllib.loads(said.stdout)["prune"]
    assert settings["steps"] == 3 and settings["train"]["epochs"] == 1.2 and settings["final"]["epochs"] == 3.6
