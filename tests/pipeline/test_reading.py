"""Nothing of a run looks at a test image before its stage report."""

from dataclasses import fields

import pytest
from small_runs import DIGITS, SMALL

from attar.data import ImageData, load_data
from attar.pipeline import run
from attar.pipeline.control import control
from attar.pipeline.watch import Silent
from attar.recipe import load_recipe

WATCHED = ("test_images", "test_labels")


class Trap(Silent):
    """Knows the stage, and notes in which of them a test image or its label was asked for."""

    def __init__(self):
        self.now = "checks"
        self.reads = {}

    def stage(self, name, text):
        self.now = name
        self.reads.setdefault(name, 0)

    def read(self):
        self.reads[self.now] = self.reads.get(self.now, 0) + 1


@pytest.fixture
def trap(monkeypatch):
    """ImageData whose test images cannot be looked at unnoticed."""
    trap = Trap()

    def watched(name):
        def get(data):
            trap.read()
            return data.__dict__[name]

        return property(get, lambda data, value: data.__dict__.__setitem__(name, value))

    assert set(WATCHED) <= {field.name for field in fields(ImageData)}
    for name in WATCHED:
        monkeypatch.setattr(ImageData, name, watched(name), raising=False)
    return trap


def test_the_test_images_are_read_in_the_report_alone(trap, tmp_path):
    recipe = load_recipe(DIGITS, (*SMALL, "export.onnx=true", "export.int8=true", "distil.view_pool=1"))
    run(recipe, tmp_path / "run", trap, until="export")
    before = {stage: trap.reads.get(stage, 0) for stage in ("teach", "distil", "prune", "export")}
    assert before == {"teach": 0, "distil": 0, "prune": 0, "export": 0} and set(trap.reads) - set(before) <= {"checks"}
    control(tmp_path / "run", watcher=trap)
    assert not any(trap.reads[stage] for stage in before)
    run(recipe, tmp_path / "run", trap)
    assert trap.reads["report"] > 0 and not any(trap.reads[stage] for stage in before)


def test_the_trap_would_catch(trap):
    data = load_data("digits")
    trap.stage("distil", "")
    assert data.test_images.shape[1:] == data.image_shape and trap.reads["distil"] == 1
