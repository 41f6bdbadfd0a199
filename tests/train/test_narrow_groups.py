"""Grouped convolutions in float32 under bf16 autocast: the same numbers, no worse rounded, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from attar.data import Views, load_data, pixel_statistics
from attar.distil import from_labels
from attar.models import build
from attar.recipe import Augment, Training
from attar.train import Machine, TrainState, fit
from attar.train.narrow_groups import fast_groups, slow_in_bf16


def grouped(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, padding_mode: str = "zeros", bias: bool = False
) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(
        inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias, padding_mode=padding_mode
    ).to(memory_format=torch.channels_last)


def step(module: nn.Module, x: torch.Tensor, grad: torch.Tensor, fast: bool, bf16: bool = True) -> list[torch.Tensor]:
    """Output and gradients, float64."""
    module, x = copy.deepcopy(module), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        if fast:
            with fast_groups(module):
                y = module(x)
        else:
            y = module(x)
    y.backward(grad.to(y.dtype))
    assert x.grad is not None
    return [t.detach().double() for t in (y, x.grad, *(p.grad for p in module.parameters() if p.grad is not None))]


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        (grouped(8, 8, 3, 1, 8), False),
        (grouped(8, 8, 3, 2, 8), True),
        (grouped(8, 8, 5, 1, 8), True),
        (grouped(8, 16, 3, 1, 8), True),
        (grouped(12, 12, 3, 1, 4), True),
        (grouped(16, 16, 3, 1, 4), False),
        (grouped(20, 20, 3, 1, 4), False),
        (grouped(20, 20, 3, 2, 4), True),
        (grouped(16, 16, 3, 2, 1), False),
    ],
)
def test_which_are_slow(module: nn.Conv2d, slow: bool) -> None:
    assert slow_in_bf16(module) is slow
    with fast_groups(nn.Sequential(module)) as count:
        assert count == slow
        assert ("forward" in vars(module)) is slow
    assert "forward" not in vars(module)


@pytest.mark.parametrize(
    "module",
    [
        grouped(8, 8, 3, 2, 8),
        grouped(8, 8, 5, 1, 8, bias=True),
        grouped(6, 12, 3, 2, 6),
        grouped(12, 24, 3, 1, 4, padding_mode="reflect", bias=True),
    ],
)
def test_values_and_gradients_are_those_of_autocast(module: nn.Conv2d) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, module.in_channels, 12, 12, generator=generator).bfloat16().float()
    x = x.contiguous(memory_format=torch.channels_last)
    shape = module(x).shape
    grad = torch.randn(shape, generator=generator).bfloat16().float()
    exact = step(module.double(), x.double(), grad.double(), fast=False, bf16=False)
    module.float()
    ours, theirs = step(module, x, grad, fast=True), step(module, x, grad, fast=False)
    for wanted, own, other in zip(exact, ours, theirs, strict=True):
        scale = wanted.norm()
        assert (own - wanted).norm() < 0.005 * scale
        assert (own - wanted).norm() <= 1.05 * (other - wanted).norm()


def test_outside_of_autocast_nothing_changes() -> None:
    module = grouped(8, 8, 3, 2, 8)
    x = torch.randn(2, 8, 9, 9)
    with fast_groups(module):
        assert torch.equal(module(x), nn.functional.conv2d(x, module.weight, None, 2, 1, 1, 8))
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).dtype == torch.bfloat16
        assert module.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_a_forward_of_its_own_is_kept() -> None:
    class Twice(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with fast_groups(Twice(4, 4, 3, 2, 1, groups=4)) as count:
        assert count == 0
    module = grouped(4, 4, 3, 2, 4)
    with fast_groups(module) as outer, fast_groups(module) as inner:
        assert (outer, inner) == (1, 0)


def test_training_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` computes the strided depthwise convolutions of a network in float32, and all others in bfloat16."""
    seen: list[tuple[bool, torch.dtype]] = []
    plain = nn.Conv2d._conv_forward

    def watched(self: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        out = plain(self, x, weight, bias)
        seen.append((self.groups > 1 and self.stride == (2, 2), out.dtype))
        return out

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", watched)
    data = load_data("digits")
    mean, std = pixel_statistics(data.images, torch.arange(128))
    views = Views(data.images, data.labels, Augment(), 0, "cpu", mean, std)
    torch.manual_seed(0)
    state = TrainState(build("separable_resnet", widths=(8, 16), depths=(2, 2)), Machine("cpu", "bf16", True, 1))
    fit(state, from_labels, views, torch.arange(128), Training(epochs=1, batch=64))
    assert set(seen) == {(True, torch.float32), (False, torch.bfloat16)}
