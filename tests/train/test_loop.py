"""The one loop: schedules, resume in the same bits, divergence, moving average, cutting of state."""

import math
from itertools import pairwise

import pytest
import torch

from attar.data import Views, load_data, pixel_statistics, split
from attar.distil import from_labels
from attar.models import build
from attar.recipe import Augment, Compute, Training
from attar.train import (
    CheckpointError,
    Diverged,
    Machine,
    NotFinite,
    TrainState,
    accuracy,
    fit,
    read_checkpoint,
    steps_for,
    write_checkpoint,
)
from attar.train.loop import learning_rate

AUGMENT = Augment(crop_padding=1, flip=0.0, erase=0.25)


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    parts = split(data.labels, 200, 0)
    mean, std = pixel_statistics(data.images, parts.train)
    return data, parts, Views(data.images, data.labels, AUGMENT, 0, "cpu", mean, std)


@pytest.fixture
def machine():
    return Machine("cpu", "fp32", True, torch.get_num_threads())


def fresh(machine, width=4):
    torch.manual_seed(0)
    return TrainState(build("resnet20", widths=(width, width, width)), machine)


def weights(state):
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_schedule_warms_up_and_follows_a_cosine():
    training = Training(epochs=10, batch=10, learning_rate=1.0, final_learning_rate=0.1, warmup=2)
    rates = [learning_rate(training, step, 100, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 21)
    assert rates[20] == 1.0
    assert max(rates) == 1.0
    assert rates[60] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert all(a > b for a, b in pairwise(rates[20:]))


def test_steps_count_whole_batches():
    assert steps_for(Training(epochs=3, batch=128), 1000) == 21
    assert steps_for(Training(epochs=0.01, batch=128), 1000) == 1
    assert steps_for(Training(epochs=2, batch=128), 100) == 2


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "muon"])
def test_a_resumed_training_ends_in_the_same_bits(digits, machine, tmp_path, optimiser):
    _, parts, views = digits
    rate = 1e-3 if optimiser == "adamw" else 0.05
    training = Training(epochs=1.5, batch=64, optimiser=optimiser, learning_rate=rate, warmup=0.2, ema=0.9, clip=5)
    steps = steps_for(training, len(parts.train))
    straight = fresh(machine)
    fit(straight, from_labels, views, parts.train, training)

    class Stop(Exception):
        pass

    file = tmp_path / "c.safetensors"
    state = fresh(machine)
    for stop_after in (3, steps // 2, steps - 1):

        def save_and_stop(progress, stop_after=stop_after, state=state):
            if progress.step == stop_after:
                write_checkpoint(file, state.tensors(), {"position": state.numbers()})
                raise Stop

        with pytest.raises(Stop):
            fit(state, from_labels, views, parts.train, training, on_step=save_and_stop)
        tensors, numbers = read_checkpoint(file)
        torch.manual_seed(99)  # another process starts from other generators
        state = TrainState(build("resnet20", widths=(4, 4, 4)), machine)
        state.load(tensors, numbers["position"], training)
    fit(state, from_labels, views, parts.train, training)
    assert same(weights(state), weights(straight))
    assert same(state.ema, straight.ema)
    assert state.position == straight.position


class Late(torch.nn.Module):
    """A branch that sits the first steps out, as stochastic depth has it."""

    def __init__(self):
        super().__init__()
        self.first, self.branch, self.steps = torch.nn.Linear(64, 10), torch.nn.Linear(64, 10), 0

    def forward(self, x):
        x, self.steps = x.flatten(1), self.steps + 1
        return self.first(x) + self.branch(x) if self.steps > 3 else self.first(x)


def test_a_parameter_may_get_its_first_gradient_later_than_others(digits, machine):
    _, parts, views = digits
    training = Training(epochs=0.3, batch=64, learning_rate=0.05)
    state = TrainState(Late(), machine)
    fit(state, from_labels, views, parts.train, training)
    whole = state.tensors()
    assert whole["moment/branch.weight/momentum_buffer"].any()
    # a checkpoint of an attar that kept no moments of a parameter without gradients
    old = {name: tensor for name, tensor in whole.items() if not name.startswith("moment/branch")}
    state = TrainState(Late(), machine)
    state.load(old, {}, training)
    fit(state, from_labels, views, parts.train, training)
    assert state.tensors()["moment/branch.weight/momentum_buffer"].any()


def test_the_loop_learns_and_reports(digits, machine):
    data, parts, views = digits
    state = fresh(machine, width=16)
    seen = []
    training = Training(epochs=6, batch=32, learning_rate=0.1, warmup=1)
    fit(state, from_labels, views, parts.train, training, on_epoch=seen.append)
    assert len(seen) == 6
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].images == 6 * (len(parts.train) // 32) * 32
    assert accuracy(state.model, views, parts.held_out, data.labels[parts.held_out], machine) > 0.9


def test_average_is_what_it_says(digits, machine):
    _, parts, views = digits
    state = fresh(machine)
    training = Training(epochs=0.2, batch=64, learning_rate=0.1, ema=0.5)
    name = "fc.weight"
    expected = state.model.state_dict()[name].clone()
    updates = 0

    def follow(progress):
        nonlocal expected, updates
        updates += 1
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * state.model.state_dict()[name]

    fit(state, from_labels, views, parts.train, training, on_step=follow)
    assert updates > 1
    torch.testing.assert_close(state.ema[name], expected, rtol=1e-5, atol=1e-7)
    last = weights(state)
    with state.averaged() as model:
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-5, atol=1e-7)
    assert same(weights(state), last)


def test_divergence_names_step_and_batch(digits, machine):
    _, parts, views = digits
    training = Training(epochs=2, batch=64, learning_rate=1e6)
    with pytest.raises(Diverged, match=r"the loss is .* at step \d+ of epoch 0 \(batch of 64 images: \d+"):
        fit(fresh(machine), from_labels, views, parts.train, training)


def test_a_broken_model_is_not_saved(tmp_path, machine):
    state = fresh(machine)
    with torch.no_grad():
        state.model.fc.bias[0] = float("nan")
    file = tmp_path / "c.safetensors"
    with pytest.raises(CheckpointError, match=r"model/fc\.bias"):
        write_checkpoint(file, state.tensors(), {})
    assert not file.exists()


class Masked(torch.nn.Module):
    """A tied layer, and a mask of minus infinity as attention has it."""

    def __init__(self):
        super().__init__()
        self.first = self.second = torch.nn.Linear(8, 8)
        self.last = torch.nn.Linear(8, 10)
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))

    def forward(self, x):
        mixed = self.mask.softmax(-1) @ self.second(self.first(x[:, 0]).relu())
        return self.last(mixed.mean(1))


def test_tied_layers_and_masks_survive_a_checkpoint(digits, machine, tmp_path):
    _, parts, views = digits
    training = Training(epochs=0.2, batch=64, learning_rate=0.05, ema=0.9)
    torch.manual_seed(0)
    state = TrainState(Masked(), machine)
    fit(state, from_labels, views, parts.train, training)
    state.check_finite()
    write_checkpoint(tmp_path / "c.safetensors", state.tensors(), {"position": state.numbers()})
    tensors, numbers = read_checkpoint(tmp_path / "c.safetensors")
    again = TrainState(Masked(), machine)
    again.load(tensors, numbers["position"], training)
    assert again.model.first.weight is again.model.second.weight
    for one in (state, again):
        fit(one, from_labels, views, parts.train, training)
    assert same(weights(again), weights(state)) and same(again.ema, state.ema)
    assert torch.equal(state.ema["mask"], state.model.mask)


@pytest.mark.parametrize("name", ["model/conv1.weight", "model/bn1.running_var", "ema/fc.bias"])
def test_infinite_weights_are_refused(machine, name):
    state = fresh(machine)
    state.begin(Training(epochs=1, ema=0.9))
    state.check_finite()
    state.tensors()[name].view(-1)[0] = float("inf")
    with pytest.raises(NotFinite, match=f"{name} is not finite"):
        state.check_finite()


def test_damaged_checkpoints_are_named(tmp_path, machine):
    file = tmp_path / "c.safetensors"
    write_checkpoint(file, fresh(machine).tensors(), {"a": 1})
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"c\.safetensors is damaged"):
            read_checkpoint(file)


@pytest.mark.parametrize("optimiser", ["sgd", "muon"])
def test_cutting_keeps_the_surviving_moments(digits, machine, optimiser):
    """Cut one inner width by hand; what survives of weights, momentum and average is what was there."""
    _, parts, views = digits
    training = Training(epochs=0.3, batch=64, optimiser=optimiser, learning_rate=0.05, ema=0.9)
    state = fresh(machine, width=6)
    fit(state, from_labels, views, parts.train, training)
    keep = torch.tensor([0, 2, 5])
    block = state.model.layer1[0]
    kept = {
        "layer1.0.conv1.weight": [(0, keep)],
        **{f"layer1.0.bn1.{name}": [(0, keep)] for name in ("weight", "bias", "running_mean", "running_var")},
        "layer1.0.conv2.weight": [(1, keep)],
    }
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    for name, cuts in kept.items():
        module, attribute = name.rsplit(".", 1)
        tensor = state.model.get_submodule(module).get_parameter(attribute) if "running" not in attribute else None
        for dim, index in cuts:
            if tensor is None:
                buffer = getattr(state.model.get_submodule(module), attribute)
                setattr(state.model.get_submodule(module), attribute, buffer.index_select(dim, index))
            else:
                tensor.data = tensor.data.index_select(dim, index)
                tensor.grad = None
    block.conv1.out_channels = block.conv2.in_channels = block.bn1.num_features = 3
    state.cut(state.model, kept, {"fc.weight": torch.full((10,), 2.0)})
    after = {name: tensor.clone() for name, tensor in state.tensors().items()}
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        expected = before[name]
        for dim, index in kept.get("/".join(name.split("/")[1:2]), []):
            expected = expected.index_select(dim, index) if expected.dim() else expected
        expected = 2 * expected if name == "ema/fc.weight" else expected  # the cut scaled its rows
        assert torch.equal(tensor, expected), name
    fit(state, from_labels, views, parts.train, training)  # the optimiser covers every live parameter
    moved = state.tensors()
    parameters = [name for name, _ in state.model.named_parameters()]
    kinds = ("momentum_buffer",) if optimiser == "sgd" else ("momentum_buffer", "gradient_average")
    assert all(any(f"moment/{name}/{kind}" in moved for kind in kinds) for name in parameters)
    assert not torch.equal(moved["model/layer1.0.conv1.weight"], after["model/layer1.0.conv1.weight"])


def test_machine_refuses_what_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"compute\.device = 'cuda' is not on this machine; there is: cpu"):
            Machine.choose(Compute(device="cuda"))
    assert Machine.choose(Compute(device="cpu", precision="fp32", threads=1)).record()["threads"] == 1
