"""Devices that are not here: what is decided for them can be seen all the same."""

import sys

import pytest
import torch

from attar.cli import app as cli
from attar.data import Views, views
from attar.prune import Context
from attar.recipe import Augment, Compute
from attar.train import Machine, Ranks


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_mps_computes_in_float32(apple):
    machine = Machine.choose(Compute(threads=1))
    assert machine.record() == {
        "device": "mps", "precision": "fp32", "channels_last": False, "threads": 1, "ranks": 1
    }  # fmt: skip
    assert not machine.buffered
    assert Machine("cuda:0", "bf16", True, 1).buffered
    with pytest.raises(ValueError, match=r"compute\.precision = 'bf16' is not supported on mps; use 'fp32' or 'auto'"):
        Machine.choose(Compute(device="mps", precision="bf16", threads=1))


def test_ranks_do_not_share_one_mps(apple):
    assert Machine.choose(Compute(threads=1), Ranks(1, 2, 1)).device == "cpu"
    with pytest.raises(ValueError, match=r"compute\.device = 'mps' names one device and there are 2 ranks"):
        Machine.choose(Compute(device="mps", threads=1), Ranks(1, 2, 1))


def test_devices_that_cannot_be_are_refused(monkeypatch):
    for device in ("auto:1", "cpu:x", "cpu:1", "mps:0", "cuda:", "cuda:x", "cuda:01", "gpu"):
        with pytest.raises(ValueError, match="allowed: auto, cpu, cuda, cuda:N, mps"):
            Compute(device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"'cuda:2' is not on this machine; its GPUs are 0 to 1"):
        Machine.choose(Compute(device="cuda:2", threads=1))


def test_views_are_made_on_the_cpu_where_a_device_is_not_trusted(monkeypatch):
    """`meta` stands for the device: it holds no numbers, so nothing computed there could be told from anything else."""
    monkeypatch.setattr(views, "HOMES", {"meta": "cpu"})
    made = []
    normalise = Views._normalise
    monkeypatch.setattr(Views, "_normalise", lambda self, pixels: made.append(normalise(self, pixels)) or made[-1])
    images, labels = torch.arange(3 * 64, dtype=torch.uint8).view(3, 1, 8, 8), torch.arange(3)
    arguments = images, labels, Augment(crop_padding=1, erase=0.0), 0
    samples = torch.tensor([2, 0])
    there, here = Views(*arguments, "meta"), Views(*arguments, "cpu")
    for batch in (lambda v: v.batch(1, samples), lambda v: v.plain(samples)):
        found, expected = batch(there), batch(here)
        assert [tensor.device.type for tensor in found] == ["meta", "meta"]
        assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
        assert made[-2].equal(made[-1])
        assert expected[0].equal(made[-1])


def test_gradients_can_be_scored_on_the_cpu():
    context = Context({"w": torch.ones(2)}, {"w": torch.zeros(2)}, seed=3).on_cpu()
    assert context.gradients["w"].device.type == context.squares["w"].device.type == "cpu"
    assert context.seed == 3


@pytest.mark.parametrize(("system", "expected"), [("darwin", "1"), ("linux", None)])
def test_the_command_lets_the_cpu_do_what_mps_lacks(monkeypatch, system, expected):
    seen = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cli, "app", lambda: seen.append(cli.os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK")))
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    cli.main()
    assert seen == [expected]
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "0")  # what the user says stands
    cli.main()
    assert seen[1] == "0"
