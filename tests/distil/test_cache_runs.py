"""Whole runs and the command `attar cache`: shared pools, files in place of the teacher, refusals."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, safe_open, save_file
from torch.nn import Sigmoid
from typer.testing import CliRunner

from attar.cli.app import app
from attar.distil import TeacherError, kept_pools, pools_folder
from attar.pipeline import Interrupted, filling, run
from attar.pipeline.run import check
from attar.recipe import RecipeError, load_recipe
from attar.train import CheckpointError, Diverged

RECIPE = """
name = "pooled"
[data]
source = "digits"
held_out = 150
[augment]
crop_padding = 1
flip = 0
[teacher]
model = "resnet20"
arguments = { widths = [5, 7, 9] }
[teacher.train]
epochs = 1
batch = 64
[student]
model = "separable_resnet"
arguments = { widths = [4, 8], depths = [2, 2], strides = [1, 2] }
[distil]
view_pool = 2
[distil.train]
epochs = 2.5
batch = 64
[prune]
steps = 2
importance = "taylor"
[prune.budget]
params = "60%"
[prune.train]
epochs = 0.5
batch = 48
learning_rate = 0.05
[export]
onnx = false
pt2 = false
int8 = false
[compute]
device = "cpu"
precision = "fp32"
threads = 1
"""
SHIPPED = "[teacher]\noutputs = 'FILE'\n[student]"


def attar(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return result.output


class Listener:
    """Keeps what a run tells."""

    def __init__(self):
        self.notes = []

    def stage(self, name, text):
        pass

    def update(self, update):
        pass

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A cache folder of this module's own, and a run with the cache switched off to compare with."""
    place = tmp_path_factory.mktemp("pooled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(place / "cache"))
        patch.delenv("ATTAR_VIEW_CACHE", raising=False)
        patch.delenv("ATTAR_VIEW_CACHE_LIMIT", raising=False)
        (place / "pooled.toml").write_text(RECIPE)
        patch.setenv("ATTAR_VIEW_CACHE", "off")
        run(load_recipe(place / "pooled.toml"), place / "off")
        assert not pools_folder().exists()
        patch.delenv("ATTAR_VIEW_CACHE")
        yield place


@pytest.fixture(scope="module")
def stored(place):
    """The same run with the cache."""
    listener = Listener()
    run(load_recipe(place / "pooled.toml"), place / "on", listener)
    return listener


@pytest.fixture(scope="module")
def shipped(place, stored):
    """The recipe with a file in place of the teacher."""
    attar("cache", "export", place / "on", place / "teacher.safetensors")
    text = re.sub(r"(?s)\[teacher\].*\[student\]", SHIPPED.replace("FILE", str(place / "teacher.safetensors")), RECIPE)
    (place / "shipped.toml").write_text(text)
    return place / "shipped.toml"


def same_student(a: Path, b: Path) -> bool:
    tensors, others = (load_file(each / "artifact" / "model.safetensors") for each in (a, b))
    return tensors.keys() == others.keys() and all(tensors[name].equal(others[name]) for name in tensors)


def test_a_run_ends_in_the_same_bits_with_and_without_the_cache(place, stored):
    assert same_student(place / "off", place / "on")
    (kept,) = kept_pools(pools_folder())
    assert kept.epochs == (0, 1)
    assert [note for note in stored.notes if "teacher's outputs are kept in" in note] == [
        f"teacher's outputs are kept in {kept.path}, at most 0.1 MB"
    ]


def test_other_students_and_seeds_share_the_pool(place, stored):
    (before,) = kept_pools(pools_folder())
    files = {file.name: file.read_bytes() for file in before.path.glob("*.rows")}
    weights = f"teacher.weights={place / 'on' / 'teach.safetensors'}"
    changes = ["seed=5", "distil.view_seed=0", "student.arguments.widths=[3,5]", "distil.train.batch=50"]
    run(load_recipe(place / "pooled.toml", [weights, *changes, "distil.train.epochs=1"]), place / "other")
    (after,) = kept_pools(pools_folder())
    assert after.key == before.key
    changed = [name for name, content in files.items() if (after.path / name).read_bytes() != content]
    assert all(b"\0" * 20 in files[name] for name in changed)  # only what was missing was added


def test_a_file_in_the_teachers_place_gives_the_same_student(place, shipped):
    facts = run(load_recipe(shipped), place / "shipped")
    assert same_student(place / "off", place / "shipped")
    assert not (place / "shipped" / "teach.safetensors").exists()
    assert "teacher" not in facts["test"]
    taught = json.loads((place / "on" / "artifact" / "report.json").read_text())["held_out"]["teach"]
    assert facts["teacher_outputs"]["teacher_held_out"]["accuracy"] == taught
    page = (place / "shipped" / "artifact" / "report.md").read_text()
    assert f"outputs of resnet20 for 2 epochs of views (teacher.safetensors), {taught:.2%}".replace("%", " %") in page


def test_a_file_may_bring_what_the_teacher_says_of_the_test_images(place, shipped):
    whole = place / "whole.safetensors"
    attar("cache", "export", place / "on", whole, "--one-byte", "--test")
    run(load_recipe(shipped, [f"teacher.outputs={whole}"]), place / "whole")
    facts, taught = (json.loads((place / name / "artifact" / "report.json").read_text()) for name in ("whole", "on"))
    assert facts["test"]["teacher"] == taught["test"]["teacher"]
    assert facts["cost"]["teacher"] == taught["cost"]["teacher"] and facts["latency"]["teacher"] > 0
    said, before = (json.loads((place / n / "artifact" / "predictions.json").read_text()) for n in ("whole", "on"))
    assert said["teacher"] == before["teacher"]
    assert "teacher" in (place / "whole" / "artifact" / "report.html").read_text()
    (pool,) = kept_pools(pools_folder())
    assert "name its run folder" in refused("cache", "export", pool.key, place / "none.safetensors", "--test")


def test_damaged_outputs_for_test_images_are_refused(place, shipped, tmp_path):
    whole = place / "damaged-test.safetensors"
    attar("cache", "export", place / "on", whole, "--test")
    with safe_open(whole, framework="pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["test"][3, 0] ^= 1
    save_file(tensors, tmp_path / "broken.safetensors", facts)
    said = refused("run", shipped, f"teacher.outputs={tmp_path}/broken.safetensors", "--out", tmp_path / "run")
    assert "its outputs for the test images are damaged" in said


def test_a_byte_for_each_logit_is_enough(place, shipped):
    small = place / "small.safetensors"
    said = attar("cache", "export", place / "on", small, "--one-byte")
    assert "2 view epochs of 1,287 images" in said
    assert small.stat().st_size < 0.8 * (place / "teacher.safetensors").stat().st_size
    facts = run(load_recipe(shipped, [f"teacher.outputs={small}"]), place / "small")
    assert facts["test"]["student"]["n"] == 360


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("augment.crop_padding=2", ["augment.crop_padding is 1 in the file, 2 in the recipe"]),
        ("augment.erase_area=[0.1,0.2]", ["augment.erase_area is [0.02, 0.4] in the file, [0.1, 0.2] in the recipe"]),
        ("seed=3", ["view_seed is 0 in the file, 3 in the recipe"]),
        ("distil.view_pool=4", ["view_pool is 2 in the file, 4 in the recipe"]),
        (
            "data={source='digits',held_out=150,mean=[0.9],std=[0.3]}",
            ["erased parts are filled with the mean: [0.30", "in the file, [0.9] in the recipe"],
        ),
        ("data.split_seed=1", ["lacks", "of the 1287 training images of this split"]),
        ("teacher.outputs=nowhere.safetensors", ["nowhere.safetensors", "there is no such file"]),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_runs(place, shipped, tmp_path, override, expected):
    said = refused("run", shipped, override, "--out", tmp_path / "run")
    for part in ["teacher.outputs = ", *expected]:
        assert part in said, said
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_file_fits_a_split_of_fewer_images(shipped, tmp_path):
    facts = check(load_recipe(shipped, ["data.held_out=200"]), tmp_path / "run")
    assert facts["split"]["train"] == 1237


def test_other_data_is_refused(place, shipped, tmp_path):
    tensors = load_file(place / "teacher.safetensors")
    with safe_open(place / "teacher.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["attar"])
    facts["data"]["fingerprint"], facts["data_name"] = "0123", "letters"
    save_file(tensors, tmp_path / "letters.safetensors", {"attar": json.dumps(facts)})
    said = refused("run", shipped, f"teacher.outputs={tmp_path}/letters.safetensors", "--out", tmp_path / "run")
    assert "made for letters" in said
    assert 'data.fingerprint is "0123" in the file' in said


def test_mixtures_are_kept_and_shipped_as_other_views_are(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    weights = place / "off" / "teach.safetensors"
    mixed = load_recipe(place / "pooled.toml", [f"teacher.weights={weights}", "distil.mixup=0.7", "distil.alpha=0.6"])
    monkeypatch.setenv("ATTAR_VIEW_CACHE", "off")
    run(mixed, tmp_path / "off")
    monkeypatch.delenv("ATTAR_VIEW_CACHE")
    run(mixed, tmp_path / "on")
    assert same_student(tmp_path / "off", tmp_path / "on")
    assert not same_student(place / "off", tmp_path / "off")
    attar("cache", "export", tmp_path / "on", tmp_path / "mixed.safetensors")
    text = re.sub(r"(?s)\[teacher\].*\[student\]", SHIPPED.replace("FILE", str(tmp_path / "mixed.safetensors")), RECIPE)
    (tmp_path / "mixed.toml").write_text(text)
    run(load_recipe(tmp_path / "mixed.toml", ["distil.mixup=0.7", "distil.alpha=0.6"]), tmp_path / "shipped")
    assert same_student(tmp_path / "off", tmp_path / "shipped")
    said = refused("run", tmp_path / "mixed.toml", "--out", tmp_path / "plain")
    assert "mixup is 0.7 in the file, null in the recipe" in said
    fewer = ("distil.mixup=0.7", "data.held_out=200")
    said = refused("run", tmp_path / "mixed.toml", *fewer, "--out", tmp_path / "fewer")
    assert "mixed with images of other training samples" in said


@pytest.mark.parametrize("damage", ["bit", "cut", "other"])
def test_a_damaged_file_is_refused(place, shipped, tmp_path, damage):
    content = bytearray((place / "teacher.safetensors").read_bytes())
    content[-5000] ^= 1
    broken = {"bit": bytes(content), "cut": bytes(content[:-100]), "other": b"something else"}[damage]
    (tmp_path / "broken.safetensors").write_bytes(broken)
    said = refused("run", shipped, f"teacher.outputs={tmp_path}/broken.safetensors", "--out", tmp_path / "run")
    assert "broken.safetensors" in said
    assert ("damaged" if damage == "bit" else "cannot be read") in said


def test_another_file_of_the_same_name_does_not_continue_a_run(place, shipped, tmp_path):
    file = tmp_path / "teacher.safetensors"
    file.write_bytes((place / "teacher.safetensors").read_bytes())
    out = tmp_path / "run"
    run(load_recipe(shipped, [f"teacher.outputs={file}"]), out)
    attar("cache", "export", place / "on", file, "--one-byte")
    assert "started with other teacher.outputs" in refused("run", shipped, f"teacher.outputs={file}", "--out", out)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("teacher.outputs='f'", ["`outputs` stand in for the teacher's network", "leave model, train out"]),
        ("teacher.output='f'", ["no such key 'output'", "did you mean 'outputs'?"]),
        ("teacher={outputs='f'}", ["teacher.outputs", "distil.view_pool = 0", "set distil.view_pool"]),
        ("teacher={}", ["teacher", "`model`", "`outputs`"]),
    ],
)
def test_recipes_with_outputs_are_checked(place, change, expected):
    with pytest.raises(RecipeError) as error:
        load_recipe(place / "pooled.toml", [change, "distil.view_pool=0"])
    for part in expected:
        assert part in str(error.value), error.value


def test_show_fill_export_and_clear(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    assert "0 pools in" in attar("cache", "show")
    weights = f"teacher.weights={place / 'off' / 'teach.safetensors'}"
    recipe = [place / "pooled.toml", weights]
    said = attar("cache", "fill", *recipe, "--out", tmp_path / "run", "--epochs", "3")
    assert "view epoch 3/3 filled" in said
    (kept,) = kept_pools(pools_folder())
    assert f"pool: {kept.path}" in said
    shown = attar("cache", "show")
    assert kept.key in shown
    row = next(line for line in shown.splitlines() if "resnet20" in line)
    assert [cell.strip() for cell in row.split("|")][2:6] == ["resnet20", "digits", "0", "3"]
    exported = attar("cache", "export", kept.key[:6], tmp_path / "file.safetensors", "--epochs", "2")
    assert "2 view epochs of 1,287 images" in exported
    before = [file.read_bytes() for file in sorted(kept.path.glob("*.rows"))]
    run(load_recipe(*[recipe[0], recipe[1:]]), tmp_path / "run")  # goes on in the same folder, and needs no teacher
    assert [file.read_bytes() for file in sorted(kept.path.glob("*.rows"))] == before
    assert same_student(tmp_path / "run", place / "off")
    assert "say which pools" in refused("cache", "clear")
    assert kept.key in refused("cache", "clear", "zzz")
    assert f"cleared {kept.key}" in attar("cache", "clear", kept.key[:8])
    assert "nothing to clear" in attar("cache", "clear", "--all")


def test_an_incomplete_pool_is_not_exported(place, stored, tmp_path):
    (kept,) = kept_pools(pools_folder())
    said = refused("cache", "export", kept.key, tmp_path / "f.safetensors", "--epochs", "9")
    assert "no view epoch 2" in said or "lacks" in said
    assert "no pool begins with 'nothing'" in refused("cache", "export", "nothing", tmp_path / "f.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Interrupted("stopped after step 3"), 130, "saved, the same command goes on"),
        (Diverged("the loss is nan"), 1, "the loss is nan"),
        (CheckpointError("run/teach.safetensors is damaged"), 1, "is damaged"),
    ],
)
def test_fill_and_export_end_as_a_run_does(place, tmp_path, monkeypatch, error, code, said):
    def stopped(session):
        raise error

    monkeypatch.setattr(filling, "teach", stopped)
    recipe, run_folder = (place / "pooled.toml", "--out", tmp_path / "run"), tmp_path / "run"
    for command in (("fill", *recipe), ("export", run_folder, tmp_path / "f.safetensors")):
        result = CliRunner().invoke(app, ["cache", *map(str, command)])
        assert result.exit_code == code and said in result.output, (command, result.output)
    assert "a folder that is there" in refused("cache", "export", run_folder, tmp_path / "nowhere" / "f.safetensors")


def test_outputs_of_a_teacher_whose_imported_code_changed_are_not_served(place, tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("from torch.nn import ReLU as act\n")
    (tmp_path / "my_teacher.py").write_text(
        "import my_parts\nfrom torch.nn import Conv2d, Flatten, Linear, Sequential\n"
        "def net(): return Sequential(Conv2d(1, 4, 3), my_parts.act(), Flatten(), Linear(144, 10))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    recipe = [place / "pooled.toml", "teacher.model=my_teacher:net", "teacher.arguments={}", "distil.train.epochs=1"]
    attar("cache", "fill", *recipe, "--out", tmp_path / "filled")
    taught = [*recipe, f"teacher.weights={tmp_path / 'filled' / 'teach.safetensors'}"]
    run(load_recipe(taught[0], taught[1:]), tmp_path / "same", until="distil")
    monkeypatch.setattr("my_parts.act", Sigmoid)
    with pytest.raises(TeacherError, match="code that its network is made of has changed"):
        run(load_recipe(taught[0], taught[1:]), tmp_path / "changed", until="distil")
    (kept,) = kept_pools(pools_folder())
    attar("cache", "clear", kept.key)
    run(load_recipe(taught[0], taught[1:]), tmp_path / "changed", until="distil")


def test_fill_needs_something_to_fill(place, tmp_path):
    recipe = place / "pooled.toml"
    assert "distil.view_pool = 0" in refused("cache", "fill", recipe, "distil.view_pool=0", "--out", tmp_path / "run")
    alone = refused("cache", "fill", recipe, "teacher={outputs='f'}", "--out", tmp_path / "run")
    assert "names no network" in alone


@pytest.mark.parametrize(
    ("name", "value"), [("ATTAR_VIEW_CACHE", "yes"), ("ATTAR_VIEW_CACHE_LIMIT", "plenty")], ids=["mode", "limit"]
)
def test_settings_that_cannot_be_read_are_named(place, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    weights = f"teacher.weights={place / 'off' / 'teach.safetensors'}"
    said = refused("cache", "fill", place / "pooled.toml", weights, "--out", tmp_path / "run")
    assert f"{name} = {value!r}" in said


def test_a_full_cache_is_told_and_the_run_goes_on(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTAR_VIEW_CACHE_LIMIT", "30k")
    listener = Listener()
    weights = f"teacher.weights={place / 'off' / 'teach.safetensors'}"
    run(load_recipe(place / "pooled.toml", [weights]), tmp_path / "run", listener)
    assert any("of 0.0 MB that it may" in note for note in listener.notes), listener.notes
    assert same_student(tmp_path / "run", place / "off")
    (kept,) = kept_pools(pools_folder())
    assert kept.epochs == (0,)
