"""Grouped convolutions under bf16 autocast: the same numbers, no worse rounded, and nothing left behind."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from attar.data import Views, load_data, pixel_statistics
from attar.distil import from_labels
from attar.models import build
from attar.recipe import Augment, Training
from attar.train import Machine, TrainState, fit
from attar.train import fast_groups as module_under_test
from attar.train.fast_groups import fast_groups, faster_forward

NATIVE = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def grouped(inputs: int, outputs: int, kernel: object, stride: object, groups: int, **more: object) -> nn.Conv2d:
    torch.manual_seed(0)
    module = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, **{"padding": 1, "bias": False} | more)  # type: ignore
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16())
    return module.to(memory_format=torch.channels_last)


def batch(*shape: int) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    return x.contiguous(memory_format=torch.channels_last)


def step(module: nn.Module, x: torch.Tensor, how: str) -> list[torch.Tensor]:
    """Output and gradients, float64; `how` is `exact` (in float64), `torch` or `attar` (both under autocast)."""
    module, x = copy.deepcopy(module), x.clone().requires_grad_()
    if how == "exact":
        module, x = module.double(), x.detach().double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=how != "exact"):
        if how == "attar":
            with fast_groups(module) as count:
                assert count == 1
                y = module(x)
        else:
            y = module(x)
    assert y.dtype == (torch.float64 if how == "exact" else torch.bfloat16)
    y.backward(batch(*y.shape).to(y.dtype))
    assert x.grad is not None
    return [t.detach().double() for t in (y, x.grad, *(p.grad for p in module.parameters() if p.grad is not None))]


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-9)).item()


@pytest.mark.parametrize(
    ("module", "faster"),
    [
        (grouped(8, 8, 3, 1, 8), None),
        (grouped(8, 8, 3, 2, 8), "_depthwise_forward"),
        (grouped(8, 8, 5, 1, 8), "_depthwise_forward"),
        (grouped(8, 8, (1, 5), 2, 8), None),
        (grouped(8, 8, 3, 2, 8, padding=3), None),
        (grouped(8, 8, 3, 2, 8, dilation=2), None),
        (grouped(8, 8, 3, 2, 8, padding_mode="reflect"), None),
        (grouped(8, 8, 5, 1, 8, padding="same"), None),
        (grouped(8, 16, 3, 1, 8), "_float32_forward"),
        (grouped(12, 12, 3, 1, 4), "_float32_forward"),
        (grouped(16, 16, 3, 1, 4), None),
        (grouped(20, 20, 3, 1, 4), None),
        (grouped(20, 20, 3, 2, 4), "_float32_forward"),
        (grouped(16, 16, 3, 2, 1), None),
    ],
)
def test_which_are_faster(module: nn.Conv2d, faster: str | None) -> None:
    way = faster_forward(module)
    assert (way and way.__name__) == faster
    with fast_groups(nn.Sequential(module)) as count:
        assert count == (faster is not None)
        assert ("forward" in vars(module)) is (faster is not None)
    assert "forward" not in vars(module)


@pytest.mark.parametrize("kernel", [3, 5, 7, 9, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
def test_depthwise_values_and_gradients(kernel: int | tuple[int, int], stride: int | tuple[int, int]) -> None:
    """Paddings from none to all that a kernel allows, sizes whose last rows no window reaches, with and without a bias."""
    for padding, size, bias in product((0, 1, 2), ((12, 12), (13, 10), (9, 11)), (False, True)):
        module = grouped(6, 6, kernel, stride, 6, padding=padding, bias=bias)
        if faster_forward(module) is None:
            continue
        x = batch(3, 6, *size)
        for wanted, own, theirs in zip(*(step(module, x, how) for how in ("exact", "attar", "torch")), strict=True):
            # one rounding to bfloat16; where the CPU has none, torch's own gradients have more
            most = 0.004 if NATIVE else max(0.004, 1.05 * error(theirs, wanted))
            assert error(own, wanted) < most, (padding, size, bias)


@pytest.mark.parametrize(
    "module",
    [
        grouped(8, 8, 3, 2, 8),
        grouped(8, 8, 5, 1, 8, bias=True),
        grouped(8, 8, 7, 2, 8, padding=3),
        grouped(6, 12, 3, 2, 6),
        grouped(12, 24, 3, 1, 4, padding_mode="reflect", bias=True),
    ],
)
def test_no_worse_rounded_than_autocast(module: nn.Conv2d) -> None:
    x = batch(8, module.in_channels, 14, 14)
    exact, own, theirs = (step(module, x, how) for how in ("exact", "attar", "torch"))
    for wanted, one, other in zip(exact, own, theirs, strict=True):
        assert error(one, wanted) <= 1.05 * error(other, wanted)


def test_without_autocast_or_gradients_nothing_changes() -> None:
    module, x = grouped(8, 8, 3, 2, 8), batch(2, 8, 9, 9)
    wanted = module(x)
    with fast_groups(module):
        assert torch.equal(module(x), wanted)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert "Depthwise" not in str(module(x).grad_fn)
        with torch.autocast("cpu", torch.bfloat16):
            assert "Depthwise" in str(module(x).grad_fn)
            assert "Depthwise" not in str(module(x.contiguous()).grad_fn)  # another layout
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
    """`fit` trains the strided depthwise convolutions of a network so, and no others."""
    seen: list[int] = []
    own = module_under_test._Depthwise.apply

    def watched(x: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(x.shape[1])
        found: torch.Tensor = own(x, *rest)
        return found

    monkeypatch.setattr(module_under_test._Depthwise, "apply", watched)
    data = load_data("digits")
    mean, std = pixel_statistics(data.images, torch.arange(128))
    views = Views(data.images, data.labels, Augment(), 0, "cpu", mean, std)
    torch.manual_seed(0)
    state = TrainState(build("separable_resnet", widths=(8, 16), depths=(2, 2)), Machine("cpu", "bf16", True, 1))
    fit(state, from_labels, views, torch.arange(128), Training(epochs=1, batch=64))
    assert seen == [8, 8] * 2  # two steps; both stages begin with a stride
