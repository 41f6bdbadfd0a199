"""The step with its inputs in buffers, as a GPU records it, must be the plain step; recorded where there is a GPU."""

import random
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attar.data import Mixup, Views, load_data, pixel_statistics, split
from attar.distil import FromTeacher, ViewOutputs, coding_for
from attar.models import build
from attar.recipe import Augment, Training
from attar.train import Machine, TrainState, fit, step

AUGMENT = Augment(
    crop_padding=1, flip=0.0, erase=0.5, erase_fill="random"
)  # random pixels depend on the epoch's number


def trained(device: str, optimiser: str, buffered: bool, monkeypatch: pytest.MonkeyPatch, mixed: bool = False):
    """Distil for two epochs of views; the state, what was reported, and what was told."""
    monkeypatch.setattr(Machine, "buffered", property(lambda machine: buffered))
    data = load_data("digits")
    parts = split(data.labels, 1200, 0)
    mean, std = pixel_statistics(data.images, parts.train)
    mixup = Mixup(0.5, parts.train, data.classes) if mixed else None
    views = Views(data.images, data.labels, AUGMENT, 0, device, mean, std, mixup=mixup)
    machine = Machine(device, "fp32", True, torch.get_num_threads())
    torch.manual_seed(1)
    teacher = machine.place(build("cnn5", widths=(4, 4, 4), hidden=8, size=8)).eval()

    @torch.inference_mode()
    def evaluate(images: torch.Tensor) -> torch.Tensor:
        return teacher(images)

    objective = FromTeacher(ViewOutputs(views, parts.train, evaluate, coding_for(10)), 2.0, 0.5)
    torch.manual_seed(0)
    state, said, told = TrainState(build("separable_resnet", widths=(4, 6), depths=(2, 2)), machine), [], []
    rate = 0.02 if optimiser == "sgd" else 1e-3
    training = Training(epochs=2, batch=32, optimiser=optimiser, learning_rate=rate, warmup=0.2, ema=0.9, clip=5)
    fit(
        state, objective, views, parts.train, training, tell=told.append,
        on_epoch=lambda p: said.append((p.step, p.epoch, p.images, p.loss, p.accuracy)),
    )  # fmt: skip
    return state, said, told


def same(a, b, rtol: float) -> None:
    (state, said, _), (other, expected, _) = a, b
    for name, tensor in other.tensors().items():
        if not name.startswith("rng/"):
            torch.testing.assert_close(
                state.tensors()[name], tensor, rtol=rtol, atol=rtol / 10, msg=lambda s, n=name: n + s
            )
    assert state.position == other.position
    assert [row[:3] for row in said] == [row[:3] for row in expected]
    torch.testing.assert_close(torch.tensor(said), torch.tensor(expected), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("optimiser", "mixed"), [("sgd", False), ("adamw", False), ("muon", False), ("sgd", True)])
def test_inputs_in_buffers_make_the_same_step(monkeypatch, optimiser, mixed):
    monkeypatch.setattr(step, "WARM_UP", 10**9)  # record nothing: no GPU is needed
    plain = trained("cpu", optimiser, False, monkeypatch, mixed)
    buffered = trained("cpu", optimiser, True, monkeypatch, mixed)
    same(buffered, plain, 1e-3)
    assert not buffered[2]


def test_a_step_that_cannot_be_recorded_goes_on_unrecorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _broken)
    plain, refused = (trained("cpu", "sgd", buffered, monkeypatch) for buffered in (False, True))
    same(refused, plain, 1e-3)
    assert refused[2] == [
        "the step cannot be recorded as a CUDA graph (not permitted when capturing); it runs unrecorded"
    ]


def _broken() -> None:
    raise RuntimeError("not permitted when capturing\nmore about it")


@pytest.mark.parametrize("again", [False, True])
def test_after_a_failed_recording_another_one_ends_and_the_stream_is_left(monkeypatch, again):
    """Without that torch 2.11 takes its generator for recorded. `again`: the other one fails as well."""
    ended, streams, here = [], [], SimpleNamespace(device="cpu", device_index=0)

    @contextmanager
    def graph(made, pool=None, stream=None):
        yield
        if again:
            raise RuntimeError("broken")
        ended.append(stream)

    for name, value in {
        "CUDAGraph": object, "current_stream": lambda: here, "graph_pool_handle": lambda: (0, 1), "graph": graph,
        "set_stream": streams.append,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda device, pool: None, raising=False)

    def compute():
        raise RuntimeError("not permitted when capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        step._recorded(compute, "stream")
    assert ended == ([] if again else ["stream"]) and streams == [here]


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (lambda: torch.rand(3).tolist(), "torch's generator of the CPU"),
        (random.random, "Python's random"),
        (np.random.random, "numpy's random"),
    ],
)
def test_a_step_that_decides_by_numbers_of_the_host_is_not_recorded(monkeypatch, draw, what):
    """A graph would repeat the decision that was made while it was recorded."""
    drawn = []

    def recorded(compute, stream):
        drawn.append(draw())
        return Played(compute)

    monkeypatch.setattr(step, "_recorded", recorded)
    before = Played.replays
    plain, refused = (trained("cpu", "sgd", buffered, monkeypatch) for buffered in (False, True))
    same(refused, plain, 1e-3)
    assert Played.replays == before
    assert refused[2] == [
        f"the step cannot be recorded as a CUDA graph (it draws from {what}, and every replay would do what was drawn once); "
        "it runs unrecorded"
    ]
    assert drawn == [draw()]  # as if nothing had been drawn


class Played:
    """Stands in for a CUDA graph on the CPU: what is recorded is the step's function, and replaying calls it."""

    replays = 0

    def __init__(self, compute):
        self.compute = compute

    def replay(self):
        Played.replays += 1
        self.compute()


def test_recorded_steps_are_counted_and_reported_as_others(monkeypatch):
    """Losses are then read every few steps; nothing of them may be lost at the ends of epochs."""
    monkeypatch.setattr(step.Step, "_record", lambda self: setattr(self, "_graph", Played(self._compute)))
    monkeypatch.setattr(step, "AHEAD", 5)
    plain = trained("cpu", "sgd", False, monkeypatch)
    drawn, places = [], Views.places
    monkeypatch.setattr(Views, "places", lambda views, epoch: drawn.append(epoch) or places(views, epoch))
    before = Played.replays
    replayed = trained("cpu", "sgd", True, monkeypatch)
    same(replayed, plain, 1e-3)
    assert Played.replays - before == replayed[1][-1][0] - step.WARM_UP
    assert drawn.index(1) < len(drawn) - 1 - drawn[::-1].index(1)  # made ready in the first epoch, used in the second


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("optimiser", "mixed"), [("sgd", False), ("adamw", False), ("muon", False), ("sgd", True)])
def test_a_recorded_step_is_the_unrecorded_one(monkeypatch, optimiser, mixed):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain = trained("cuda", optimiser, False, monkeypatch, mixed)
    recorded = trained("cuda", optimiser, True, monkeypatch, mixed)
    assert not recorded[2]  # it was recorded
    same(recorded, plain, 1e-2)
