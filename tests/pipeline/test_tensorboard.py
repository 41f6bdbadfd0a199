"""--tensorboard: the log as curves, each point once however often a run was stopped. And data that a caller brings."""

import builtins
import json
from pathlib import Path

import pytest
import torch
from command_line import attar

from attar.data import ImageData, load_data
from attar.pipeline import run
from attar.recipe import check_recipe, load_recipe
from attar.train import loop

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.toml"
SMALL = (
    "compute.precision=fp32", "compute.device=cpu", "compute.threads=1", "compute.checkpoint_seconds=0",
    "teacher.arguments.widths=[4,4,4]", "teacher.train.epochs=0.5", "teacher.train.warmup=0",
    "student.arguments.widths=[4,4,6]", "distil.train.epochs=0.5", "distil.train.warmup=0",
    "prune.steps=2", "prune.train.epochs=0.2", "prune.final.epochs=0.2",
    "export.onnx=false", "export.pt2=false", "export.int8=false",
)  # fmt: skip


class Stopped(Exception):
    pass


def test_every_point_is_there_once_after_stops(tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe, real, steps = load_recipe(DIGITS, SMALL), loop.learning_rate, []

    def stopping(*arguments):
        steps.append(1)
        if len(steps) in (8, 16, 30):  # in the middle of distilling, of the first step of pruning, ...
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(loop, "learning_rate", stopping)
    starts = 0
    while True:
        try:
            starts += 1
            facts = run(recipe, tmp_path / "run", tensorboard=starts != 2)  # once without it
            break
        except Stopped:
            continue
    assert starts > 2
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    lines = facts["learning_curves"]
    for stage in ("teach", "distil", "prune"):
        own = [line for line in lines if line["stage"] == stage]
        for name in ("loss", "accuracy", "held_out", "learning_rate"):
            points = found.Scalars(f"{stage}/{name}")
            assert [point.step for point in points] == [line["images"] for line in own]
            assert [point.value for point in points] == pytest.approx([line[name] for line in own])
    for name in ("params", "macs", "bytes"):
        points = found.Scalars(f"frontier/{name}")
        assert [(point.step, point.value) for point in points] == [
            (point["step"], pytest.approx(point["cost"][name])) for point in facts["frontier"]
        ]
    assert len(found.Scalars("frontier/held_out")) == 3
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_without_the_library_it_says_so_before_anything_runs(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    result = attar("run", DIGITS, *SMALL, "--tensorboard", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "pip install 'attar[tensorboard]'" in result.output
    assert not (tmp_path / "run" / "run.json").exists()


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels, self.classes = images, labels, [f"digit {n}" for n in range(10)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def test_data_sets_of_the_callers_own(tmp_path):
    digits = load_data("digits")
    train = Pairs(digits.images[:200], digits.labels[:200])
    test = Pairs(digits.test_images[:50], digits.test_labels[:50])
    values = {
        "name": "own",
        "data": {"source": "mine", "held_out": 40},
        "student": {"model": "resnet20", "arguments": {"widths": [4, 4, 4]}},
        "distil": {"alpha": 0.0, "train": {"epochs": 0.5, "batch": 32}},
        "export": {"onnx": False, "pt2": False},
        "compute": {"threads": 1, "device": "cpu"},
    }
    facts = run(check_recipe(values), tmp_path / "run", data=(train, test))
    assert facts["data"]["name"] == "mine" and facts["test"]["student"]["n"] == 50
    assert "digit 3" in json.loads((tmp_path / "run" / "artifact" / "arch.json").read_text())["class_names"]
    whole = ImageData("mine", digits.images[:200], digits.labels[:200], digits.test_images[:50],
                      digits.test_labels[:50], tuple(train.classes), facts["data"]["fingerprint"], "here")  # fmt: skip
    again = run(check_recipe(values), tmp_path / "run", data=whole)
    assert again["test"]["student"]["hits"] == facts["test"]["student"]["hits"]
