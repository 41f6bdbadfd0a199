"""`package.module:function` in a recipe: a user's own data, network, loss and importance."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attar
from attar.data import DataError, load_data
from attar.distil import find_loss
from attar.names import function_named
from attar.pipeline import evaluate_artifact
from attar.pipeline.folder import RunFolder
from attar.pipeline.run import opened
from attar.pipeline.watch import Silent
from attar.prune.importance import find_importance, needs_gradients
from attar.recipe import RecipeError, check_recipe

MODULE = """
import numpy as np, torch
from sklearn.datasets import load_digits
from attar.prune import reads_gradients, unit_sums, weights

digits = load_digits()
x, y = digits.images / 16, digits.target
called = []

def arrays(folder=None):
    called.append(folder)
    return {"x_train": x[:1500], "y_train": y[:1500], "x_test": torch.tensor(x[1500:]), "y_test": y[1500:]}

class Items:
    def __init__(self, rows): self.rows = rows
    def __len__(self): return len(x[self.rows])
    def __getitem__(self, index): return x[self.rows][index], y[self.rows][index]

def inverted():
    from dataclasses import replace
    from attar.data import load_data
    found = load_data("digits")
    return replace(found, images=255 - found.images)

def datasets(): return Items(slice(1500)), Items(slice(1500, None))
def wrong(): return [1, 2, 3]
def network(): return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                          torch.nn.Linear(288, 10))

class Guided(torch.nn.Module):
    def forward(self, images, masks): return images

def loss(student, teacher, labels, temperature, alpha):
    called.append("loss")
    return (student - teacher).square().mean() / temperature

def vector(student, teacher, labels, temperature, alpha): return (student - teacher).square().mean(1)
def detached(student, teacher, labels, temperature, alpha): return student.detach().mean()

@reads_gradients
def importance(parameters, group, context):
    called.append("importance")
    sums = [unit_sums(context.gradients[m.tensor].abs(), m, group.size) for m in weights(parameters, group)]
    return torch.stack(sums).sum(0)
"""
TRAIN = {"epochs": 0.5, "batch": 64, "learning_rate": 0.01}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module `mine` in the current folder, which is not on the Python path."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    sys.modules.pop("mine", None)


def recipe(**changes):
    values = {
        "name": "mine",
        "data": {"source": "mine:arrays", "held_out": 100},
        "teacher": {"model": "resnet20", "arguments": {"widths": [4, 6, 8]}, "train": TRAIN},
        "student": {"model": "mine:network"},
        "distil": {"loss": "mine:loss", "train": TRAIN},
        "prune": {"budget": {"params": "60%"}, "steps": 1, "importance": "mine:importance", "train": TRAIN},
        "export": {"onnx": False, "pt2": False, "int8": False},
        "compute": {"threads": 1},
    }
    return check_recipe({**values, **changes})


def test_a_run_of_ones_own_parts(mine: Path):
    facts = attar.run(recipe(), mine / "run")
    called = sys.modules["mine"].called  # type: ignore[attr-defined]
    assert {"loss", "importance", None} == set(called)
    assert facts["cost"]["after"]["params"] <= facts["budget"]["params"]
    folder = mine / "run/artifact"
    assert attar.verify(folder, allow=["mine:network"]).passed
    # Nothing that the artifact names is run unless it is asked for: neither its network nor its data.
    with pytest.raises(ValueError, match="mine:network"):
        evaluate_artifact(folder, "mine:arrays")
    with pytest.raises(ValueError, match="to run that code, say --data mine:arrays"):
        evaluate_artifact(folder, allow=["mine:network"])
    found, _ = evaluate_artifact(folder, "mine:arrays", allow=["mine:network"])
    assert found.accuracy == pytest.approx(facts["test"]["student"]["accuracy"])


def test_what_a_data_function_may_return(mine: Path):
    data, again = load_data("mine:arrays"), load_data("mine:datasets")
    assert data.fingerprint == again.fingerprint
    assert data.images.shape == (1500, 1, 8, 8) and data.images.dtype == torch.uint8
    np.testing.assert_array_equal(data.images[0, 0], np.rint(sys.modules["mine"].x[0] * 255))  # type: ignore[attr-defined]
    assert again.source == "function mine:datasets"
    load_data("mine:arrays", mine)
    assert sys.modules["mine"].called[-1] == mine  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="mine:wrong returned list"):
        load_data("mine:wrong")
    with pytest.raises(DataError, match="did you mean 'arrays'"):
        load_data("mine:array")
    with pytest.raises(DataError, match=r"cannot import 'foldr' .*did you mean 'folder'"):
        load_data("foldr:pictures")


def test_changed_data_is_other_data_wherever_it_comes_from(mine: Path):
    digits, inverted = load_data("digits"), load_data("mine:inverted")
    assert inverted.fingerprint != digits.fingerprint
    given = replace(digits, images=255 - digits.images)
    session, facts = opened(recipe(), RunFolder(mine / "run"), Silent(), given)
    assert facts["data"]["fingerprint"] == session.data.fingerprint == inverted.fingerprint
    assert opened(recipe(), RunFolder(mine / "run"), Silent(), digits)[0].data.fingerprint == digits.fingerprint
    with pytest.raises(DataError, match="training labels go from 1 to 10, but there are 10 classes"):
        opened(recipe(), RunFolder(mine / "run"), Silent(), replace(digits, labels=digits.labels + 1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"distil": {"loss": "mine:vector", "train": TRAIN}}, r"distil.loss = 'mine:vector': .*one finite number"),
        ({"distil": {"loss": "mine:detached", "train": TRAIN}}, "with a gradient"),
        ({"distil": {"loss": "mine:wrong", "train": TRAIN}}, "distil.loss = 'mine:wrong': .*positional arguments"),
        ({"distil": {"loss": "kll", "train": TRAIN}}, "did you mean 'kl'"),
        ({"distil": {"loss": "mine:los", "train": TRAIN}}, "did you mean 'loss'"),
        (
            {"student": {"model": "mine:Guided"}},
            "student.model = 'mine:Guided': .*required positional argument: 'masks'",
        ),
        ({"student": {"model": "mine:netwerk"}}, "did you mean 'network'"),
        ({"data": {"source": "nowhere:data"}}, "data.source = 'nowhere:data': .*cannot import 'nowhere'"),
    ],
)
def test_faults_are_told_before_anything_is_computed(mine: Path, changes: dict, expected: str):
    with pytest.raises((RecipeError, DataError), match=expected):
        attar.run(recipe(**changes), mine / "run")
    assert not list(mine.glob("run/*.safetensors"))


def test_a_loss_without_a_teacher_is_a_contradiction():
    with pytest.raises(RecipeError, match=r"distil.loss = 'mine:loss' is for learning from a teacher"):
        recipe(teacher=None, distil={"alpha": 0.0, "loss": "mine:loss", "train": TRAIN})


def test_functions_by_name(mine: Path):
    assert find_loss("mine:loss", 7) is function_named("mine:loss")
    assert needs_gradients("mine:importance") and needs_gradients("taylor") and not needs_gradients("group_norm")
    with pytest.raises(ValueError, match=r"mine has no function 'importanc', did you mean 'importance'"):
        find_importance("mine:importanc")
    with pytest.raises(ValueError, match=r"'mine.loss' names no function: write package.module:function"):
        function_named("mine.loss")
