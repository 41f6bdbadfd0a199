"""attar compress with the networks of other libraries and of the user's own code, on his own pictures."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision_ops import define_missing_operators
from typer.testing import CliRunner

from attar.cli.app import app
from attar.models import build

define_missing_operators()
QUICK = ["--epochs", "0.3", "prune.steps=2", "export.onnx=false", "export.pt2=false", "compute.threads=1"]
OWN = """
from torch import nn

def small(classes: int = 3, width: int = 12) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )
"""


def attar(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Photographs of a kind, JPEG and PNG, in three classes, as people have them."""
    place = tmp_path_factory.mktemp("pictures") / "images"
    for number in range(60):
        colour = [(200, 40, 40), (40, 200, 40), (40, 40, 200)][number % 3]
        file = place / ["red", "green", "blue"][number % 3] / f"{number}.{['png', 'jpg'][number % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), colour).save(file)
    (place / "red" / "broken.jpg").write_bytes(b"no picture")
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))


def check(result, out: Path, budget: str) -> dict:
    assert result.exit_code == 0, result.output
    assert "1 of 61 pictures cannot be read" in result.output
    assert "teach: the weights that you gave, held-out accuracy" in result.output
    report = json.loads((out / "artifact" / "report.json").read_text())
    assert report["cost"]["after"][budget] <= report["budget"][budget] < report["cost"]["before"][budget]
    return report


def test_a_network_of_timm_by_the_command_that_the_readme_gives(images, tmp_path, monkeypatch):
    monkeypatch.chdir(images.parent)
    torch.manual_seed(0)
    save_file(build("timm:test_resnet", classes=3).state_dict(), tmp_path / "teacher.safetensors")
    out = tmp_path / "run"
    result = attar("compress", "--teacher", "timm:test_resnet", "--weights", tmp_path / "teacher.safetensors",
                   "--data", "folder:./images", "--size", 32, "--params", "25%", "--out", out, *QUICK)  # fmt: skip
    report = check(result, out, "params")
    assert report["recipe"]["student"]["model"] == "timm:test_resnet"
    picture = images / "red" / "0.png"
    said = attar("predict", out / "artifact", picture)
    assert said.exit_code == 0 and all(name in said.output for name in ("red", "green", "blue"))
    assert attar("verify", out / "artifact").exit_code == 0


def test_a_folder_of_transformers(images, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    config = transformers.AutoConfig.for_model("resnet", **shape)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "net")
    out = tmp_path / "run"
    result = attar("compress", "--teacher", f"hf:{tmp_path / 'net'}", "--weights",
                   tmp_path / "net" / "model.safetensors", "--data", f"folder:{images}", "--size", 32,
                   "--macs", "70%", "--out", out, *QUICK)  # fmt: skip
    check(result, out, "macs")
    architecture = (out / "artifact" / "arch.json").read_text()
    assert json.loads(architecture)["builder"]["name"] == "hf:resnet"
    assert str(tmp_path) not in architecture
    assert "--allow hf:resnet" in attar("predict", out / "artifact", images / "red" / "0.png").output
    assert attar("verify", out / "artifact", "--allow", "hf:resnet").exit_code == 0


def test_a_function_of_the_users_own_in_the_current_folder(images, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    torch.save(build("my_networks:small").state_dict(), tmp_path / "mine.pt")
    out = tmp_path / "run"
    result = attar("compress", "--teacher", "my_networks:small", "--weights", "mine.pt", "--data", f"folder:{images}",
                   "--size", 32, "--bytes", "60%", "--out", out, *QUICK)  # fmt: skip
    check(result, out, "bytes")
    assert "nothing was run" in attar("verify", out / "artifact").output
    for command in ("verify", "load", "eval"):
        result = attar(command, out / "artifact", "--allow", "my_networks:small")
        assert result.exit_code == 0, result.output


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(ValueError, match="no configuration of a model"):
        build(f"hf:{tmp_path}")


def test_a_dry_run_prints_a_recipe_and_tells_the_rest_aside(images, tmp_path):
    (images / "violet").mkdir(exist_ok=True)
    file = tmp_path / "teacher.safetensors"
    save_file(build("resnet20", widths=[4, 6, 8], classes=3, in_channels=3).state_dict(), file)
    result = attar("compress", "--teacher", "resnet20", "--teacher-argument", "widths=[4,6,8]", "--weights", file,
                   "--data", f"folder:{images}", "--params", "50%", "--dry-run")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "violet/ has no pictures and is left out" in result.stderr
    assert "1 of 61 pictures cannot be read" in result.stderr
    assert tomllib.loads(result.stdout)["prune"]["budget"] == {"params": "50%"}
