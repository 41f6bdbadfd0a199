"""The summary: the reference's table line by line, counts against independent ones, and a network left as it was."""

import json

import pytest
import torch
from torch import nn
from torchvision_ops import define_missing_operators

import attar
from attar.models import build
from attar.prune import count_macs
from attar.report import summary

define_missing_operators()

REFERENCE = """
BatchNorm2d-68 [-1, 39, 7, 7] 78
ReLU-69 [-1, 39, 7, 7] 0
BasicBlock-70 [-1, 39, 7, 7] 0
AvgPool2d-71 [-1, 39, 1, 1] 0
Linear-72 [-1, 10] 400
Total params: 99,603
Trainable params: 99,603
Non-trainable params: 0
Input size (MB): 0.00
Forward/backward pass size (MB): 2.28
Params size (MB): 0.38
Estimated Total Size (MB): 2.66
""".strip().splitlines()


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if set(line) - set("-=")]


def test_the_references_table_line_by_line():
    found = lines(str(attar.summary(build("resnet20", widths=(9, 19, 39)), (1, 28, 28))))
    assert found[0] == "Layer (type) Output Shape Param # MACs"
    tail = found[found.index("BatchNorm2d-68 [-1, 39, 7, 7] 78 0") :]
    without_macs = [line.rsplit(" ", 1)[0] if "-" in line.split()[0] and "]" in line else line for line in tail]
    assert [line for line in without_macs if not line.startswith("Total MACs")] == REFERENCE
    assert len(found) == 1 + 72 + len(REFERENCE) - 5 + 1


def convolution_and_linear_macs(model: nn.Module, sample: torch.Tensor) -> int:
    """Outputs times inputs per output, written down from the layers' definitions."""
    total = 0

    def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += (
                output.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            )
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    handles = [m.register_forward_hook(hook) for m in model.modules()]
    with torch.no_grad():
        model.eval()(sample)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    "name, arguments, size",
    [
        ("resnet20", {}, (1, 28, 28)),
        ("resnet50", {"stem": "stride2"}, (1, 28, 28)),
        ("torchvision:mobilenet_v3_small", {}, (3, 64, 64)),
        ("torchvision:shufflenet_v2_x0_5", {}, (3, 64, 64)),
    ],
)
def test_macs_and_params_against_an_independent_count(name, arguments, size):
    model = build(name, **arguments)
    found = summary(model, size)
    assert found.macs == convolution_and_linear_macs(model, torch.zeros(1, *size))
    assert found.macs == sum(layer.macs for layer in found.layers) and not found.rest
    assert found.params == sum(layer.params for layer in found.layers) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name, arguments", [("resnet20", {"widths": (9, 19, 39)}), ("resnet50", {"stem": "imagenet"})])
def test_macs_are_those_of_the_engine(name, arguments):
    model = build(name, **arguments).eval()
    assert summary(model, (1, 28, 28)).macs == count_macs(model, torch.zeros(1, 1, 28, 28))


def test_macs_of_an_lstm_are_counted():
    found = summary(nn.Sequential(nn.Linear(6, 8), nn.LSTM(8, 16, batch_first=True)), (5, 6))
    assert [layer.macs for layer in found.layers] == [5 * 6 * 8, 5 * 4 * 16 * (8 + 16)]


def test_macs_of_attention_are_counted():
    model = build("timm:vit_tiny_patch16_224", classes=10)
    sample = torch.zeros(1, 3, 224, 224)
    attention = 12 * 2 * 197 * 197 * 192  # depth x (scores, values) x tokens² x width
    found = summary(model, (3, 224, 224))
    assert found.macs == convolution_and_linear_macs(model, sample) + attention
    assert found.rest == {"params": 192 + 197 * 192}  # class token and positions belong to no layer

    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    per_token = 16 * 48 + 16 * 16 + 2 * 16 * 32
    found = summary(nn.Sequential(encoder, nn.Identity()), (5, 16))
    assert found.macs == 5 * per_token + 2 * 5 * 5 * 16
    assert found.params == sum(layer.params for layer in found.layers)  # with the projection nobody calls


class Awkward(nn.Module):
    """A shared layer, tied weights, a layer never called, its own parameter, and a dictionary for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.shared.weight
        self.idle = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)
        self.pair = Pair()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.tied(self.shared(self.shared(x))) * self.scale
        return {"pair": self.pair(x), "scalar": x.sum()}


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> list:
        return [x[..., :1], {"matrix": x[..., None] @ x[..., None, :]}, None]


def test_shared_and_tied_layers_and_odd_outputs():
    found = summary(Awkward(), (4,))
    assert [(layer.kind, layer.number, layer.params, layer.macs) for layer in found.layers] == [
        ("Linear", 1, 20, 16),
        ("Linear", 2, 0, 16),
        ("Linear", 3, 4, 16),
        ("Pair", 4, 0, 16),
    ]
    assert found.layers[3].shapes == ((-1, 1), (-1, 4, 4))
    assert (found.params, found.trainable, found.rest) == (20 + 4 + 15 + 4, 20 + 4 + 15, {"params": 15 + 4})
    assert "Pair-4 [[-1, 1], [-1, 4, 4]] 0 16" in lines(str(found))
    assert "In no layer above: 19 params" in lines(str(found))


def state(model: nn.Module) -> tuple:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks, [m.training for m in model.modules()], [t.clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("size", [(1, 28, 28), (3, 28, 28), (1, 28)])
def test_the_network_is_left_as_it_was_even_on_error(size):
    model = build("resnet20", widths=(4, 4, 4)).double()
    model.layer2.eval()
    before = state(model)
    if size == (1, 28, 28):
        assert summary(model, size).input_bytes == 8 * 784
    else:
        with pytest.raises(ValueError, match="cannot take a sample of size"):
            summary(model, size)
    after = state(model)
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2]))


@pytest.mark.parametrize("size", [28, (), "1,28,28", (1, -28, 28), (1.0, 28, 28), (1 << 20, 1 << 20)])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="input_size"):
        summary(build("resnet20"), size)


def test_plain_data_holds_what_the_table_shows():
    found = summary(nn.Linear(3, 2), (3,))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["layers"] == [
        {"number": 1, "kind": "Linear", "name": "", "shapes": [[-1, 2]], "params": 8, "macs": 6, "bytes": 8}
    ]
    assert (data["params"], data["macs"], data["pass_bytes"], data["total_bytes"]) == (8, 6, 16, 12 + 16 + 32)
