"""What is easily overlooked: tensors that the example does not use, second names, modes and attributes of modules."""

from __future__ import annotations

import threading
from collections import deque

import pytest
import torch
from torch import nn

import attar
from attar.models import in_mode
from attar.prune import CaptureError, Pruner
from attar.prune.proof import ProofError


class Flagged(nn.Module):
    """An autoencoder whose decoder stands behind a flag, and a norm that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 20))
        self.shift = nn.Parameter(torch.rand(8))
        self.spare = nn.Parameter(torch.rand(8))

    def forward(self, x, decode=False):
        z = self.encoder(x) + self.shift
        return self.decoder(z) if decode else z


def test_tensors_that_the_example_does_not_read_stay_whole_and_are_reported():
    torch.manual_seed(0)
    model, x = Flagged(), torch.rand(2, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("encoder")}
    pruner = Pruner(model, x)
    unread = [report for report in pruner.reports if report.startswith("no operation of the example's call reads it")]
    assert sorted(report.partition("(")[2] for report in unread) == ["decoder.0)", "decoder.1)", "decoder.3)", "spare)"]
    pruner.step(attar.Budget(params="80%"))
    assert model.encoder[0].out_features < 64
    for name, tensor in before.items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert model(x, decode=True).shape == (2, 20)


class Sharing(nn.Module):
    """`first.conv` and `second.conv` are one module; the scale of `tied` is that of `norm`."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Conv2d(16, 16, 3, padding=1)
        self.stem = nn.Conv2d(3, 16, 3)
        self.first, self.second = nn.Sequential(), nn.Sequential()
        self.first.conv, self.second.conv = shared, shared
        self.middle = nn.Conv2d(16, 32, 1)
        self.norm, self.tied = nn.BatchNorm2d(32), nn.BatchNorm2d(32)
        self.tied.weight = self.norm.weight
        self.back = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(self.stem(x)).relu()
        x = self.back(self.tied(self.norm(self.middle(x)).relu()))
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.parametrize("name", ["second", "second.conv", "second.*", "second.conv.weight"])
def test_what_is_protected_by_a_second_name_stays(name):
    torch.manual_seed(0)
    model = Sharing()
    pruner = Pruner(model, torch.rand(2, 3, 8, 8), protect=[name])
    pruner.step(attar.Budget(params="80%"))
    assert model.second.conv.weight.shape == (16, 16, 3, 3)
    assert model.middle.out_channels < 32


def test_floors_hold_for_second_names_of_tensors():
    torch.manual_seed(0)
    model = Sharing()
    pruner = Pruner(model, torch.rand(2, 3, 8, 8), floors={"tied.weight": 30})
    for share in ("90%", "75%"):  # the second step knows the names too
        pruner.step(attar.Budget(params=share))
    assert model.middle.out_channels >= 30


class Logging(nn.Module):
    """Reads a number while it trains, so that train mode cannot be captured; then runs more, of which eval mode has nothing."""

    def __init__(self, extra: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.head, self.extra = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4), extra

    def forward(self, x):
        y = self.b(self.a(x).relu()).relu()
        if not self.training:
            return self.head(y)
        if float(y.mean()) > 1e9:
            print("odd")
        return self.head(y), self.extra(y)


def test_train_mode_that_cannot_be_captured_is_run_before_a_cut():
    torch.manual_seed(0)
    model, x = Logging(nn.Linear(16, 2)), torch.rand(2, 8)
    before = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(ProofError, match="does not run in train mode: RuntimeError: mat1 and mat2"):
        attar.prune(model, x, attar.Budget(params="60%"))
    assert all(map(torch.equal, before, model.parameters()))

    model = Logging(nn.Sigmoid())  # takes any width
    attar.prune(model, x, attar.Budget(params="60%"))
    assert [len(y) for y in model.train()(x)] == [2, 2]

    model = Logging(nn.Bilinear(1, 1, 1))  # never ran in train mode
    attar.prune(model, x, attar.Budget(params="60%"))
    assert model.b.out_features < 16


class Merging(nn.Linear):
    """Adds its low-rank part to its weight for eval mode, as loralib does."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.randn(2, sizes[0])), nn.Parameter(torch.randn(sizes[1], 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.up.data @ self.down.data)
            self.merged = not mode
        return self

    def forward(self, x):
        y = super().forward(x)
        return y if self.merged else y + x @ self.down.T @ self.up.T


def test_what_train_does_beside_the_flag_is_undone_after_another_mode():
    torch.manual_seed(0)
    model, x = nn.Sequential(Merging(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4)), torch.rand(2, 8)
    model[2].eval()
    for training in (False, True):
        weight, merged = model[0].weight.detach().clone(), model[0].merged
        with in_mode(model, training):
            assert model[0].merged == (not training) and model[2].training == training
        assert model.training and not model[2].training  # each module's own
        assert not merged and not model[0].merged
        assert torch.allclose(model[0].weight, weight, atol=1e-6)
    model[0].eval()  # frozen, and merged, in a network that trains
    with in_mode(model, True):
        assert not model[0].merged
    assert model.training and model[0].merged and not model[0].training
    model.eval()
    expected = model(x)
    attar.couple(model, x)
    assert model[0].merged and torch.allclose(model(x), expected, atol=1e-5)


class Holding(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.inner.held = held
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        y = self.inner(x)
        if isinstance(self.inner.held, list | deque):
            self.inner.held.clear()
            self.inner.held.append({"last": y})
        return self.head(y)


@pytest.mark.parametrize("held", [list, deque])
def test_a_network_that_holds_activations_in_lists_and_dicts_is_cut(held):
    torch.manual_seed(0)
    model, x = Holding(held()), torch.rand(2, 8)
    model(x).sum().backward()
    (before,) = model.inner.held
    attar.prune(model, x, attar.Budget(params="60%"))
    assert model.inner[0].out_features < 16
    assert len(model.inner.held) == 1 and model.inner.held[0] is before


def test_an_attribute_that_cannot_be_copied_is_named():
    model = Holding(threading.Lock())
    with pytest.raises(ValueError, match=r"Holding cannot be copied.*attribute 'held' of inner \(lock\).*TypeError"):
        attar.prune(model, torch.rand(2, 8), attar.Budget(params="60%"))
    assert model.inner[0].out_features == 16


class Branching(nn.Sequential):
    def forward(self, x):
        return super().forward(torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,)))


def test_what_cannot_be_followed_is_named():
    parts, x = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)], torch.rand(2, 8)
    with pytest.raises(CaptureError, match="cond runs code of its own"):
        attar.couple(Branching(*parts), x)
    scripted = torch.jit.script(nn.Sequential(*parts))
    with pytest.raises(CaptureError, match=r"the network is TorchScript \(RecursiveScriptModule\)"):
        attar.couple(scripted, x)
    with pytest.raises(CaptureError, match=r"0 is TorchScript \(TopLevelTracedModule\)"):
        attar.couple(nn.Sequential(torch.jit.trace(nn.Sequential(*parts), x), nn.ReLU()), x)
    with pytest.raises(ValueError, match="floor inf: give a number of units"):
        attar.prune(nn.Sequential(*parts), x, attar.Budget(params="60%"), floors=float("inf"))


@pytest.mark.parametrize(
    ("dims", "resize"),
    [
        (3, nn.Upsample(scale_factor=2)),
        (3, nn.Upsample(scale_factor=2, mode="trilinear")),
        *((dims, nn.Upsample(scale_factor=2, mode="nearest-exact")) for dims in (1, 2, 3)),
        (3, nn.AdaptiveMaxPool3d(2)),
    ],
)
def test_resizing_keeps_channels_apart(dims, resize):
    torch.manual_seed(0)
    conv = getattr(nn, f"Conv{dims}d")
    model = nn.Sequential(conv(2, 8, 1), resize, nn.ReLU(), conv(8, 4, 1))
    pruner = Pruner(model, torch.rand(2, 2, *[4] * dims))
    assert not pruner.reports
    assert pruner.step(attar.Budget(params="70%")).proof < 1e-10
    assert model[0].out_channels < 8


class Halves(nn.Module):
    def __init__(self, halve) -> None:
        super().__init__()
        self.halve = halve
        self.wide, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(6, 5, 1)
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)

    def forward(self, x):
        a, b = self.halve(self.wide(x))
        return self.last(self.one(a.relu()) + self.two(b.sigmoid())).mean((2, 3))


@pytest.mark.parametrize(
    "halve",
    [
        lambda x: torch.chunk(x, 2, 1),
        lambda x: torch.unsafe_chunk(x, 2, 1),
        lambda x: torch.unsafe_split(x, x.shape[1] // 2, 1),
        lambda x: torch.tensor_split(x, 2, 1),
    ],
    ids=["chunk", "unsafe_chunk", "unsafe_split", "tensor_split"],
)
def test_parts_stay_equal_so_that_a_networks_own_code_can_halve(halve):
    torch.manual_seed(0)
    model = Halves(halve)
    pruner = Pruner(model, torch.randn(2, 3, 9, 9))
    pruner.step(attar.Budget(params="50%"))
    assert pruner.mode == "module" and model.wide.out_channels == 8
