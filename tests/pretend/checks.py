"""What a device that is no CPU would notice; test_pretend.py runs these in a process of their own."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "prune"), str(TESTS / "train")]

from awkward_networks import EXACT, MIXING, example  # noqa: E402
from device import DEVICE, NAME, CaptureError, Pretending, capturing, register  # noqa: E402
from pipeline.small_runs import DIGITS, SMALL  # noqa: E402
from test_step import Played, same, trained  # noqa: E402

import attar  # noqa: E402
from attar.pipeline.rehearsal import rehearse  # noqa: E402
from attar.prune import Pruner  # noqa: E402
from attar.recipe import load_recipe  # noqa: E402
from attar.train import Machine, machine, step  # noqa: E402

RECIPE = (
    *SMALL, "prune.importance=taylor", "prune.sparse.train.epochs=0.5", "prune.sparse.train.batch=64",
    "prune.sparse.train.learning_rate=0.05",
)  # fmt: skip


class Checked(Played):
    """Stands in for a CUDA graph: replaying carries the step out, and refuses what could not have been recorded."""

    def __init__(self, compute, stream):
        super().__init__(compute)

    def replay(self):
        with capturing():
            super().replay()


@pytest.fixture
def device(monkeypatch):
    register()
    monkeypatch.setattr(step, "_recorded", Checked)
    with Pretending():
        yield DEVICE


def test_the_device_notices_what_a_gpu_would(device):
    there = torch.arange(3.0, device=device)
    assert (there + 1).cpu().tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="a tensor on the CPU"):
        there + torch.ones(3)
    for waits in (lambda: bool(there[0]), there.tolist, there.nonzero, there.cpu, lambda: torch.ones(3).to(device)):
        with capturing(), pytest.raises(CaptureError):
            waits()


@pytest.mark.parametrize(("optimiser", "mixed"), [("adamw", False), ("muon", False), ("sgd", True)])
def test_a_recorded_step_waits_for_nothing(device, monkeypatch, optimiser, mixed):
    plain = trained(device, optimiser, False, monkeypatch, mixed)
    checked = trained(device, optimiser, True, monkeypatch, mixed)
    assert not checked[2]
    same(checked, plain, 1e-3)


def test_every_stage_of_a_run(device, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_device", lambda asked: device)
    monkeypatch.setattr(Machine, "buffered", property(lambda self: True))
    before = Played.replays
    attar.run(load_recipe(DIGITS, RECIPE), tmp_path)
    assert Played.replays > before
    attar.load(tmp_path / "artifact")


def test_a_dry_run(device, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_device", lambda asked: device)
    monkeypatch.setattr(Machine, "buffered", property(lambda self: True))
    monkeypatch.setattr(step, "AHEAD", 4)  # it times three looks' worth of steps
    before = Played.replays
    shape = "{ widths = [4, 4, 4], hidden = 8, size = 8 }"
    small = [f"{who}.{key}" for who in ("teacher", "student") for key in ("model=cnn5", f"arguments={shape}")]
    found = rehearse(load_recipe(DIGITS, (*RECIPE, *small)), tmp_path / "run")
    assert Played.replays > before
    assert found.planned is not None and min(found.seconds.values()) > 0


@pytest.mark.parametrize("make", [*MIXING, *EXACT[::4]], ids=lambda make: make.__name__)
def test_networks_are_cut_where_they_are(device, make):
    model = make().to(device)
    done = attar.prune(model, tuple(part.to(device) for part in example(model)), attar.Budget(params="60%"))
    assert done.cut.proof < 1e-10
    assert {tensor.device.type for tensor in model.state_dict().values()} == {NAME}


class Places(nn.Module):
    """Makes tensors beside its input, by a number of channels that it was told: a cut network runs its graph."""

    def __init__(self, make):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3)
        self.last, self.make, self.kept = nn.Linear(24, 10), make, torch.rand(64)

    def forward(self, x):
        x = self.norm(self.first(x)).relu().reshape(len(x), 16, 64)
        return self.last(self.second((x + self.make(self, x)).reshape(len(x), 16, 8, 8)).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda net, x: torch.arange(64, device=x.device) / 64,
        lambda net, x: torch.zeros(len(x), 1, 64, device=x.device),
        lambda net, x: net.kept.to(x.device),
        lambda net, x: x.new_ones(64),
    ],
    ids=["arange", "zeros", "kept", "new"],
)
def test_a_graph_captured_on_the_cpu_runs_on_the_device(device, make):
    model, x = Places(make), torch.randn(2, 3, 8, 8)
    pruner = Pruner(model, x)
    pruner.step(attar.Budget(params="50%"))
    assert pruner.mode == "graph"
    wanted = model.eval()(x)
    model.to(device)
    torch.testing.assert_close(model(x.to(device)).cpu(), wanted)
    model.train()(x.to(device)).sum().backward()
    torch.testing.assert_close(model.to("cpu").eval()(x).isfinite().all(), torch.tensor(True))
