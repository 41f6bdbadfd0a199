"""The builders: published sizes, the reference's order of layers, and what is answered to wrong names and arguments."""

import sys

import pytest
import torch
from torch import nn
from torchvision_ops import define_missing_operators

from attar.models import BuilderSpec, build, builders

define_missing_operators()


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("resnet20", {}, 272_186),
        ("resnet20", {"widths": [9, 19, 39]}, 99_603),  # the reference's summary
        ("attar:resnet20", {"widths": (16, 32, 64)}, 272_186),
        ("resnet50", {"in_channels": 3, "classes": 1000}, 25_557_032),  # torchvision's resnet50
    ],
)
def test_known_sizes(name, arguments, expected):
    assert parameters(build(name, **arguments)) == expected


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_cifar_resnets_have_their_depth(depth):
    network = build(f"resnet{depth}", in_channels=3)
    on_main_path = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len([name for name in on_main_path if "downsample" not in name]) == depth


@pytest.mark.parametrize("size", [8, 28, 32, 33])
def test_any_input_size_and_the_mean_over_all_positions(size):
    torch.manual_seed(0)
    network = build("resnet20", widths=(4, 6, 8), in_channels=3, classes=7).eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        features = network.layer3(network.layer2(network.layer1(network.relu(network.bn1(network.conv1(x))))))
        assert torch.allclose(network(x), network.fc(features.mean((2, 3))), atol=1e-6)
    assert features.shape[-1] == -(-size // 4)


@pytest.mark.parametrize(
    "stem, sizes", [("imagenet", (7, 4, 2, 1)), ("stride2", (14, 7, 4, 2)), ("small", (28, 14, 7, 4))]
)
def test_stems_of_resnet50(stem, sizes):
    network = build("resnet50", stem=stem, widths=(4, 4, 4, 4)).eval()
    seen = []
    for name in network.stages:
        network.get_submodule(name).register_forward_hook(lambda _m, _i, y: seen.append(y.shape[-1]))
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert tuple(seen) == sizes


def test_resnet50_loads_torchvision_weights_and_agrees():
    ours = build("resnet50", in_channels=3, classes=1000).eval()
    theirs = build("torchvision:resnet50").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_the_seed_of_the_caller_decides():
    def first() -> torch.Tensor:
        torch.manual_seed(5)
        return build("resnet20").layer2[0].conv1.weight

    assert torch.equal(first(), first())


def test_kaiming_scale():
    torch.manual_seed(0)
    weight = build("resnet20", widths=(64, 128, 256)).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    "name, arguments, words",
    [
        ("resnet21", {}, ["resnet21", "did you mean", "resnet20"]),
        ("timm:resnet1800", {}, ["timm has no network", "resnet180"]),
        ("torchvision:resnet17", {}, ["torchvision has no classifier", "resnet"]),
        ("torchvision:fcn_resnet50", {}, ["no classifier"]),
        ("resnet20", {"width": (1, 2, 3)}, ["no argument 'width'", "did you mean 'widths'"]),
        ("resnet20", {"widths": (16, 32)}, ["widths", "3 whole numbers", "(16, 32)"]),
        ("resnet20", {"widths": (16, 0, 64)}, ["widths[1]", "not 0"]),
        ("resnet20", {"widths": "abc"}, ["widths", "'abc'"]),
        ("resnet20", {"in_channels": 1.5}, ["in_channels", "1.5"]),
        ("resnet20", {"classes": True}, ["classes", "True"]),
        ("resnet20", {"classes": 10**12}, ["classes", str(10**12)]),
        ("resnet50", {"stem": "large"}, ["stem", "imagenet", "'large'"]),
        ("torchvision:resnet18", {"in_channels": 1}, ["3 channels", "timm:resnet18"]),
        ("torchvision:resnet18", {"colour": 1}, ["torchvision:resnet18", "colour"]),
        ("timm:resnet18", {"colour": 1}, ["timm:resnet18", "colour"]),
        ("timm:resnet18", {"classes": 3, "num_classes": 4}, ["twice"]),
        ("no_such_package_:net", {}, ["no_such_package_", "import"]),
        ("tim:resnet18", {}, ["did you mean 'timm'"]),
        ("collections:OrderedDict", {}, ["OrderedDict", "not a torch.nn.Module"]),
        ("torch.nn:Linnear", {}, ["did you mean 'Linear'"]),
        (":x", {}, ["names no network"]),
        ("", {}, ["word"]),
    ],
)
def test_wrong_names_and_arguments_are_explained(name, arguments, words):
    with pytest.raises(ValueError) as error:
        build(name, **arguments)
    for word in words:
        assert word in str(error.value)


def test_timm_torchvision_and_the_users_own():
    x = torch.zeros(1, 1, 32, 32)
    assert build("timm:resnet10t", classes=4, in_channels=1).eval()(x).shape == (1, 4)
    assert build("torchvision:squeezenet1_1", classes=4).eval()(x.expand(1, 3, 32, 32)).shape == (1, 4)
    assert parameters(build("torch.nn:Linear", in_features=3, out_features=2)) == 8


def test_a_missing_library_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'attar\[timm\]'"):
        build("timm:resnet18")


def test_spec_goes_through_json_and_refuses_what_json_cannot_hold():
    spec = BuilderSpec("resnet20", {"widths": (9, 19, 39)})
    again = BuilderSpec.from_dict(spec.to_dict())
    assert again.to_dict() == {"name": "resnet20", "arguments": {"widths": [9, 19, 39]}}
    assert parameters(again.build()) == 99_603
    assert (spec.library, BuilderSpec("timm:x").library, BuilderSpec("a.b:c").library) == ("attar", "timm", "a.b")
    with pytest.raises(ValueError, match="plain data"):
        BuilderSpec("resnet20", {"widths": torch.zeros(3)})
    for wrong in (None, {}, {"name": 3, "arguments": {}}, {"name": "resnet20", "arguments": []}):
        with pytest.raises(ValueError):
            BuilderSpec.from_dict(wrong)
    assert "resnet20" in builders()


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_a_torchvision_built_for_another_torch_is_told_as_that(name, monkeypatch):
    def refuse(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("attar.models.registry.import_module", refuse)
    with pytest.raises(ValueError, match=r"nms does not exist.*install the torchvision that fits your torch"):
        build(name)


def test_a_part_of_transformers_that_cannot_be_imported_is_told_with_its_cause(monkeypatch):
    def refuse(*_):
        raise ModuleNotFoundError("Could not import module 'X'") from RuntimeError(
            "operator torchvision::nms is missing"
        )

    monkeypatch.setattr("attar.models.registry.build_huggingface", refuse)
    with pytest.raises(ValueError, match=r"hf:resnet .*nms is missing.*install the torchvision that fits your torch"):
        build("hf:resnet")
