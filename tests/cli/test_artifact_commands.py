"""export, predict and bench: views added to an artifact, names for pictures, and what each view costs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attar.artifact import save, view_names
from attar.cli.app import app
from attar.data import load_data
from attar.models import BuilderSpec

ROOT = Path(__file__).parents[2]
SHORT = [
    "teacher.train.epochs=2", "teacher.train.warmup=0.2", "distil.train.epochs=2", "distil.train.warmup=0.2",
    "distil.alpha=0.5", "prune.steps=1", "prune.train.epochs=0.2", "prune.final.epochs=1",
    "teacher.arguments.widths=[8,8,8]", "student.arguments.widths=[8,12,16]",
]  # fmt: skip


def attar(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run folder whose artifact has every view."""
    out = tmp_path_factory.mktemp("views") / "run"
    result = attar("run", ROOT / "recipes" / "digits.toml", *SHORT, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def bare(finished, tmp_path) -> Path:
    """A copy of its artifact without views."""
    artifact = tmp_path / "artifact"
    shutil.copytree(finished / "artifact", artifact)
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in view_names(artifact):
        (artifact / name).unlink()
        del manifest["files"][name]
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    return artifact


def test_views_stand_side_by_side_in_the_report(finished):
    report = json.loads((finished / "artifact" / "report.json").read_text())
    rows = {row["name"]: row for row in report["views"]}
    assert list(rows) == ["model.safetensors", "model.pt2", "model.onnx", "model.int8.onnx"]
    network = rows["model.safetensors"]["test"]
    assert network["hits"] == report["test"]["student"]["hits"]
    for name in ("model.pt2", "model.onnx"):
        assert rows[name]["agrees"]
        assert rows[name]["test"]["hits"] == network["hits"]
        assert rows[name]["test"]["differing"] == 0
    for name, row in rows.items():
        assert row["bytes"] == (finished / "artifact" / name).stat().st_size
    page = (finished / "artifact" / "report.md").read_text()
    assert "## Views" in page
    assert all(f"**{row['name']}**: {flag}" in page for row in rows.values() for flag in row["flags"])


def test_a_view_that_does_worse_is_flagged():
    from attar.pipeline.exporting import judged

    good = {"bytes": 1, "difference": 0.0, "agreement": 1.0, "agrees": True, "milliseconds": 1.0}
    views = [
        {"name": "model.safetensors", **good},
        {"name": "model.pt2", "error": "no such operation"},
        {"name": "model.onnx", **good, "milliseconds": 0.5},
        {"name": "model.int8.onnx", **good, "agrees": False, "difference": 0.5, "milliseconds": 0.9},
    ]
    tested = {
        name: {"hits": hits, "n": 1000, "accuracy": hits / 1000, "differing": 0}
        for name, hits in (("model.safetensors", 950), ("model.onnx", 949), ("model.int8.onnx", 940))
    }
    flags = {row["name"]: row["flags"] for row in judged(views, tested)}
    assert flags["model.safetensors"] == flags["model.onnx"] == []
    assert flags["model.pt2"] == ["failed: no such operation"]
    assert ["disagrees" in flags["model.int8.onnx"][0], "slower than model.onnx" in flags["model.int8.onnx"][1]] == [
        True,
        True,
    ]
    assert "loses 1.00 points" in flags["model.int8.onnx"][2]


def test_a_view_that_gains_accuracy_but_says_something_else_is_flagged():
    from attar.pipeline.exporting import judged

    good = {"bytes": 1, "difference": 0.0, "agreement": 1.0, "agrees": True, "milliseconds": 1.0}
    views = [{"name": name, **good} for name in ("model.safetensors", "model.int8.onnx")]
    tested = {"model.safetensors": {"hits": 150, "n": 200, "accuracy": 0.75, "differing": 0}}
    tested["model.int8.onnx"] = {"hits": 160, "n": 200, "accuracy": 0.8, "differing": 47}
    assert judged(views, tested)[1]["flags"] == ["disagrees with the network on 47 of 200 test images"]


def test_a_view_whose_library_is_missing_is_left_out_unless_asked_for(bare, monkeypatch):
    from attar.artifact import views
    from attar.pipeline.exporting import add_views, check_libraries, wanted_views
    from attar.recipe import Export, RecipeError

    monkeypatch.setattr(views, "find_spec", lambda name: None if name.startswith("onnx") else object())
    said: list[str] = []
    images = load_data("digits").images[:32]
    rows = add_views(bare, wanted_views(Export()), images, (), said.append)
    assert [row["name"] for row in rows] == ["model.safetensors", "model.pt2"]
    assert any("model.onnx is left out: onnx, onnxscript, onnxruntime not installed" in line for line in said)
    with pytest.raises(RecipeError, match=r"model\.onnx is asked for and needs onnx, onnxscript"):
        check_libraries(wanted_views(Export(onnx=True)))


def test_export_adds_what_is_asked_for(bare):
    assert attar("export", bare).exit_code == 2
    result = attar("export", bare, "--int8")
    assert result.exit_code == 0, result.output
    assert view_names(bare) == ["model.onnx", "model.int8.onnx"]
    assert attar("verify", bare).exit_code == 0
    other = attar("export", bare, "--int8", "--data", "nothing")
    assert other.exit_code == 2
    assert "there is no data set 'nothing'" in other.output


def test_predict_names_pictures_and_those_it_cannot_read(finished, tmp_path):
    data = load_data("digits")
    artifact = finished / "artifact"
    sizes = {"small": 8, "large": 64}
    for name, size in sizes.items():
        Image.fromarray(data.test_images[0, 0].numpy()).resize((size, size), 0).convert("RGB").save(
            tmp_path / f"{name}.png"
        )
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [tmp_path / f"{name}.png" for name in ("small", "broken", "large")]
    result = attar("predict", artifact, *files, "--top", "2")
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if "%" in line]
    assert [line.split(": ")[0] for line in lines] == [str(files[0]), str(files[2])]
    assert all(len(line.split(", ")) == 2 for line in lines)
    assert "broken.png" in result.output
    assert "1 of 3 pictures could not be read" in result.output
    likeliest = json.loads((artifact / "predictions.json").read_text())["student"][0]
    assert lines[0].split(": ")[1].startswith(f"{data.class_names[likeliest]} ")
    by_view = attar("predict", artifact, files[0], "--view", "onnx")
    assert by_view.exit_code == 0
    assert by_view.output.split(": ")[1].split()[0] == lines[0].split(": ")[1].split()[0]
    unknown = attar("predict", artifact, files[0], "--view", "tflite")
    assert unknown.exit_code == 2
    assert "model.onnx" in unknown.output


def test_predict_says_that_pillow_is_missing(finished, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    result = attar("predict", finished / "artifact", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "pip install 'attar[images]'" in result.output


def test_bench_measures_teacher_and_view(finished):
    result = attar(
        "bench", finished / "artifact", "--teacher", "--view", "onnx", "--batches", "1,16", "--seconds", "0", "--json"
    )
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert "measuring teacher ..." in result.stderr and "measuring onnx ..." in result.stderr
    assert list(rows) == ["teacher", "model.onnx"]
    for row in rows.values():
        assert row["threads"] == 1
        assert [one["batch"] for one in row["measured"]] == [1, 16]
        assert all(one["seconds"] > 0 and one["peak_bytes"] > one["own_bytes"] >= 0 for one in row["measured"])
    assert rows["model.onnx"]["file_bytes"] == (finished / "artifact" / "model.onnx").stat().st_size


def test_bench_measures_all_there_is(finished, bare):
    short = ("--batches", "1", "--seconds", "0")
    everything = attar("bench", finished / "artifact", *short)
    assert everything.exit_code == 0, everything.output
    named = ["teacher", "network", *view_names(finished / "artifact")]
    assert [line.split("|")[1].strip() for line in everything.output.splitlines() if " kB" in line] == named
    without = attar("bench", bare, *short)
    assert without.exit_code == 0 and "The teacher is not measured: " in without.output


def test_bench_tells_of_a_run_without_a_teacher(bare):
    result = attar("bench", bare, "--teacher")
    assert result.exit_code == 2
    assert "leave --teacher out" in result.output


def test_bench_does_not_take_the_teacher_of_another_run(finished):
    guest = finished / "guest"
    shutil.copytree(finished / "artifact", guest)
    try:
        result = attar("bench", guest, "--teacher")
        assert result.exit_code == 2 and "is not its artifact" in result.output
    finally:
        shutil.rmtree(guest)


def test_pictures_of_two_channels_there_are_none(tmp_path):
    spec = BuilderSpec("resnet20", {"widths": (4, 6, 8), "classes": 2, "in_channels": 2})
    golden = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
    save(
        tmp_path / "two",
        spec.build(),
        spec,
        input_size=(2, 8, 8),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        golden=golden,
        class_names=("a", "b"),
    )
    result = attar("predict", tmp_path / "two", tmp_path / "x.png")
    assert result.exit_code == 2 and "takes images of 2 channels" in result.output


def test_pictures_become_what_the_network_takes(finished):
    """A picture of another size and mode does not fail, whatever it is taken for."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "odd.png"
        Image.fromarray(np.arange(17 * 31 * 4, dtype=np.uint8).reshape(17, 31, 4)).save(file)
        assert attar("predict", finished / "artifact", file).exit_code == 0


def test_what_an_artifact_names_does_not_steer_the_terminal(bare):
    """Class names and builders come from strangers: no escape sequence, no turned writing, no half of a letter."""
    picture = bare.parent / "picture.png"
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(picture)
    arch = json.loads((bare / "arch.json").read_text())
    names = ["\x1b[31mred", "\u202eturned", "\ud800", "größe 犬", *arch["class_names"][4:]]

    def rewrite(changed: dict) -> None:
        content = json.dumps(changed).encode()
        (bare / "arch.json").write_bytes(content)
        manifest = json.loads((bare / "manifest.json").read_text())
        manifest["files"]["arch.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bare / "manifest.json").write_text(json.dumps(manifest))

    rewrite(arch | {"class_names": names})
    result = attar("predict", bare, picture, "--top", "10")
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in (r"\x1b[31mred", r"\u202eturned", r"\ud800", "größe 犬"))
    assert "\x1b" not in result.output and "\u202e" not in result.output
    rewrite(arch | {"builder": {"name": "os:\x1b[2J", "arguments": {}}})
    for command in (["predict", bare, picture], ["verify", bare]):
        refused = attar(*command)
        assert refused.exit_code in (1, 2) and "nothing was run" in refused.output
        assert "\x1b" not in refused.output
