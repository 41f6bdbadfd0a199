"""The families that the reference's sources experiment with: published sizes, shapes, gradients, and errors."""

import pytest
import torch
from torch import nn

from attar.models import build, builders
from attar.prune import Pruner


@pytest.mark.parametrize(
    "name, arguments, millions",
    [
        # Zagoruyko & Komodakis 2016, table 4 (CIFAR-10)
        ("wide_resnet", {"depth": 40, "widen": 1}, 0.6),
        ("wide_resnet", {"depth": 40, "widen": 2}, 2.2),
        ("wide_resnet", {"depth": 40, "widen": 4}, 8.9),
        ("wide_resnet", {"depth": 16, "widen": 8}, 11.0),
        ("wide_resnet", {}, 36.5),  # 28-10
        # Huang et al. 2017, table 2 (CIFAR-10)
        ("densenet_bc", {}, 0.8),  # depth 100, growth 12
        ("densenet_bc", {"depth": 250, "growth": 24}, 15.3),
        ("densenet_bc", {"depth": 190, "growth": 40}, 25.6),
        # Xie et al. 2017, table 7 (CIFAR-10)
        ("resnext29", {}, 34.4),  # 8x64d
        # Zhang et al. 2018 (mixup) and Harris et al. 2020 (FMix) give 11M
        ("preact_resnet18", {}, 11.2),
    ],
)
def test_published_sizes(name, arguments, millions):
    with torch.device("meta"):
        network = build(name, in_channels=3, **arguments)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def test_the_plain_network_layer_by_layer():
    """Convolutions with bias, BN, and linear layers as in haitongli/knowledge-distillation-pytorch, at 32 x 32."""
    convolutions = sum(9 * a * b + b + 2 * b for a, b in ((3, 32), (32, 64), (64, 128)))
    linear = (128 * 16) * 128 + 128 + 2 * 128 + 128 * 10 + 10
    network = build("cnn5", in_channels=3, size=32)
    assert sum(p.numel() for p in network.parameters()) == convolutions + linear == 357_514


def test_separable_blocks_one_by_one():
    """A 3x3 for each channel, a 1x1 across them, one BN's parameters; the shortcut adds what came in."""

    def block(a, b):
        return 9 * a + a * b + 2 * b

    network = build("separable_resnet")
    stem, linear = 9 * 32 + 2 * 32, 64 * 10 + 10
    wanted = stem + 8 * block(32, 32) + block(32, 64) + 2 * block(64, 64) + linear
    assert sum(p.numel() for p in network.parameters()) == wanted == 24_074
    assert network.stages(torch.randn(1, 32, 28, 28)).shape == (1, 64, 7, 7)
    first, second = network.stages[0][:2]
    x = torch.randn(2, 32, 9, 9)
    for layer in (first, second):
        nn.init.zeros_(layer.bn2.weight)  # leaves the shortcut alone, where there is one
    assert not first(x).any() and second(x).equal(x)


SMALL = {
    "cnn5": {"widths": (4, 6, 8), "hidden": 12},
    "densenet_bc": {"depth": 10, "growth": 4},
    "preact_resnet18": {"widths": (4, 4, 6, 8)},
    "resnext29": {"cardinality": 2, "width": 2},
    "wide_resnet": {"depth": 10, "widen": 1, "dropout": 0.1},
    "resnet20": {"widths": (4, 6, 8)},
    "resnet50": {"widths": (8, 8, 8, 8), "stem": "stride2"},
    "separable_resnet": {"widths": (4, 8), "depths": (2, 2)},
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    network = build(name, classes=5, **SMALL[name])
    logits = network(torch.randn(4, 1, 28, 28))
    assert logits.shape == (4, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    gradients = {key: p.grad for key, p in network.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    if name == "resnet50":  # its blocks start as identities: only their last scales and shifts learn at first
        gradients = {key: value for key, value in gradients.items() if "bn3" in key}
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_family_can_be_pruned(name):
    torch.manual_seed(0)
    network = build(name, **SMALL[name])
    before = sum(p.numel() for p in network.parameters())
    Pruner(network, torch.randn(2, 1, 28, 28)).step({"params": int(0.7 * before)})
    assert sum(p.numel() for p in network.parameters()) <= 0.7 * before
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", ["densenet_bc", "preact_resnet18", "resnext29", "separable_resnet", "wide_resnet"])
@pytest.mark.parametrize("size", [8, 32])
def test_other_image_sizes(name, size):
    assert build(name, in_channels=3, **SMALL[name]).eval()(torch.zeros(1, 3, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("wide_resnet", {"depth": 20}, "6n \\+ 4"),
        ("wide_resnet", {"widen": 0}, "widen"),
        ("wide_resnet", {"dropout": 1}, "dropout"),
        ("densenet_bc", {"depth": 4}, "6n \\+ 4"),
        ("densenet_bc", {"compression": 1.5}, "compression"),
        ("densenet_bc", {"compression": 0.01, "growth": 4}, "at least a channel"),
        ("resnext29", {"cardinality": 0}, "cardinality"),
        ("preact_resnet18", {"widths": (1, 2, 3)}, "widths"),
        ("cnn5", {"size": 7}, "at least 8"),
        ("separable_resnet", {"depths": (7,)}, "depths must be 2 whole numbers"),
        ("separable_resnet", {"widths": ()}, "one for each of 1 to 8 stages"),
        ("separable_resnet", {"widths": 32}, "one for each of 1 to 8 stages"),
        ("separable_resnet", {"depths": (7, 1000)}, r"depths\[1\] must be .* to 256, not 1000"),
        ("wideresnet", {}, "did you mean 'wide_resnet'"),
    ],
)
def test_wrong_arguments_are_explained(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        build(name, **arguments)


def test_all_of_attars_networks_are_tested_here():
    assert {name for name in builders() if not name.startswith("resnet")} | {
        "resnet20",
        "resnet50",
        "resnext29",
    } == set(SMALL)
