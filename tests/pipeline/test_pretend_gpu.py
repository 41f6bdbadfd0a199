"""A run on a device that is no CPU: what needs the host's tensors there, or may not be recorded as a CUDA graph, breaks here."""

import pytest
import torch
from conftest import DIGITS, SMALL
from pretend_gpu import DEVICE, CaptureError, capturing, pretend_gpu  # noqa: F401

import attar
from attar.recipe import load_recipe
from attar.train import Machine, machine, step

SPARSE = ("prune.sparse.train.epochs=1", "prune.sparse.train.batch=64", "prune.sparse.train.learning_rate=0.05")


class Recorded:
    """Stands in for a CUDA graph: replaying carries the step out, and refuses what could not have been recorded."""

    replays = 0

    def __init__(self, compute, stream):
        self.compute = compute

    def replay(self):
        Recorded.replays += 1
        with capturing():
            self.compute()


@pytest.fixture
def device(pretend_gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(machine, "_device", lambda asked: DEVICE)
    monkeypatch.setattr(Machine, "buffered", property(lambda self: True))
    monkeypatch.setattr(step, "_recorded", Recorded)
    return DEVICE


def test_the_device_notices_what_a_gpu_would(device):
    there = torch.arange(3.0, device=device)
    assert (there + 1).cpu().tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="a tensor on the CPU"):
        there + torch.ones(3)
    with capturing(), pytest.raises(CaptureError, match="waits"):
        bool(there[0])
    with capturing(), pytest.raises(CaptureError, match="copies"):
        torch.ones(3).to(device)


@pytest.mark.parametrize("importance", ["group_norm", "taylor"])
def test_every_stage_of_a_run(device, tmp_path, importance):
    recipe = load_recipe(DIGITS, (*SMALL, *SPARSE, f"prune.importance={importance}"))
    before = Recorded.replays
    attar.run(recipe, tmp_path / "run")
    assert attar.load(tmp_path / "run" / "artifact") is not None
    assert Recorded.replays > before
