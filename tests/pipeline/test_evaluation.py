"""An artifact is only measured on images that it was made for: their size, and the classes in their order."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import attar
from PIL import Image

from attar.artifact import save
from attar.data import load_data
from attar.models import BuilderSpec
from attar.pipeline import evaluate_artifact

SPEC = BuilderSpec("resnet20", {"widths": (4, 6, 8)})


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Pictures `imgs` of digits, 21 pixels wide, and an artifact `made` of them in 16 x 16."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    data = load_data("digits")
    for number in range(60):
        file = tmp_path / f"imgs/{int(data.labels[number])}-digit/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[number, 0].numpy()).resize((21, 21)).save(file)
    made(tmp_path / "made", {"source": "folder:imgs", "folder": None, "size": 16}, "folder:imgs")
    return tmp_path


def made(folder: Path, table: dict, data: str) -> None:
    """An artifact with fresh weights whose report says that it was made for this data."""
    torch.manual_seed(0)
    found = load_data(data, size=16)
    save(folder, SPEC.build().eval(), SPEC, input_size=(1, 16, 16), mean=(0.3,), std=(0.4,), golden=found.images[:4],
         class_names=found.class_names, extras={"report.json": json.dumps({"recipe": {"data": table}})})  # fmt: skip


def test_naming_the_data_changes_nothing(place: Path):
    by_default, _ = evaluate_artifact("made")
    named, _ = evaluate_artifact("made", "folder:imgs")
    moved, _ = evaluate_artifact("made", f"folder:{place / 'imgs'}")  # another name: the artifact's own size is taken
    for other in (named, moved):
        assert other.correct == by_default.correct and other.confidences.equal(by_default.confidences)


def test_the_same_name_elsewhere_is_brought_to_the_artifacts_size(place: Path):
    made(
        place / "natural", {"source": "folder:imgs", "folder": None, "size": None}, "folder:imgs"
    )  # 16 pixels by chance
    for file in (place / "imgs").rglob("*.png"):
        other = place / "other" / file.relative_to(place)
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).resize((40, 40)).save(other)
    found, _ = evaluate_artifact("natural", folder="other")
    assert found.images > 0


def test_other_classes_are_refused(place: Path):
    (place / "imgs/3-digit").rename("imgs/zebra")
    said = attar("eval", "made")
    assert said.exit_code == 2
    assert "class 3 is '4-digit' there and '3-digit' in the artifact" in said.output
    shutil.rmtree("imgs/zebra")
    said = attar("eval", "made", "--data", "folder:imgs")
    assert said.exit_code == 2
    assert "imgs has 9 classes and the artifact tells 10 apart" in said.output


def test_images_of_another_size_are_refused(place: Path):
    for command in (("eval", "made"), ("export", "made", "--int8")):
        said = attar(*command, "--data", "digits")
        assert said.exit_code == 2, said.output
        assert "the images of digits are [1, 8, 8], the artifact takes [1, 16, 16]" in said.output


def test_a_view_is_measured_too(place: Path):
    said = attar("eval", "made", "--view", "onnx")
    assert said.exit_code == 2 and "has no view 'onnx'" in said.output
    assert attar("export", "made", "--pt2").exit_code == 0
    assert attar("eval", "made", "--view", "pt2").output == attar("eval", "made").output
