"""Strided 1x1 convolutions of few channels train: on any CPU, by any road, with the right gradient."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from attar.data import Views
from attar.models import SafeStridedConvolutions
from attar.prune import collect_gradients
from attar.recipe import Augment, Training
from attar.train import Machine, TrainState, fit

ALONE = """
import sys, torch, attar
from attar.models import SafeStridedConvolutions
size, width, threads, dtype = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), getattr(torch, sys.argv[4])
torch.set_num_threads(threads)
model = attar.build("resnet20", widths=(width, width, width), classes=2, in_channels=1).to(memory_format=torch.channels_last)
images = torch.randn(8, 1, size, size).to(memory_format=torch.channels_last)
narrow = [module for module in model.modules() if getattr(module, "stride", 1) == (2, 2) and module.kernel_size == (1, 1)]
for module in narrow:
    module.register_forward_hook(lambda module, given, answer: setattr(module, "saw", (given[0].detach(), answer)))
with SafeStridedConvolutions():
    assert len(narrow) == 2
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(images).float().square().sum()
        for module in narrow:
            module.saw[1].retain_grad()
        model.zero_grad()
        loss.backward()
        for module in narrow:
            pixels, gradient = module.saw[0].to(dtype).double()[:, :, ::2, ::2], module.saw[1].grad.double()
            wanted = torch.einsum("bohw,bihw->oi", gradient, pixels)
            summed = torch.einsum("bohw,bihw->oi", gradient.abs(), pixels.abs())  # batch norm makes some gradients cancel
            error = ((module.weight.grad[:, :, 0, 0].double() - wanted).abs() / summed).max()
            assert error < (1e-6 if dtype == torch.float32 else 2e-3), f"the gradient is off by {error:.2g}"
print("alive")
"""


@pytest.mark.parametrize(
    ("size", "width", "threads", "dtype"),
    [
        (28, 7, 1, "float32"),
        (28, 3, 2, "float32"),
        (14, 1, 1, "float32"),
        (64, 8, 1, "float32"),
        (28, 5, 1, "bfloat16"),
    ],
)
def test_a_narrow_network_trains(size, width, threads, dtype):
    case = [str(value) for value in (size, width, threads, dtype)]
    done = subprocess.run([sys.executable, "-c", ALONE, *case], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


GRADIENTS = """
import torch, attar
from attar.prune import collect_gradients
torch.set_num_threads(1)
torch.manual_seed(0)
model = attar.build("resnet20", widths=(7, 7, 7), classes=2, in_channels=1)
images = torch.randn(8, 1, 28, 28)
loss = lambda model, batch: model(batch).square().sum()
wanted = collect_gradients(model, [images], loss).gradients
model.to(memory_format=torch.channels_last)
for _ in range(3):
    found = collect_gradients(model, [images.to(memory_format=torch.channels_last)], loss).gradients
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())
print("alive")
"""


def test_gradients_for_an_importance_are_right_in_channels_last():
    done = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


aten = torch.ops.aten.conv2d
ROADS = {
    "a module": lambda conv, x: conv(x),
    "valid": lambda conv, x: F.conv2d(x, conv.weight, conv.bias, 2, "valid"),
    "by name": lambda conv, x: F.conv2d(input=x, weight=conv.weight, bias=conv.bias, stride=(2,)),
    "one image": lambda conv, x: torch.stack([conv(image) for image in x]),
    "a captured graph": lambda conv, x: aten.default(x, conv.weight, conv.bias, [2, 2]),
    "a captured graph, valid": lambda conv, x: aten.padding(x, conv.weight, conv.bias, [2, 2]),
    "any overload": lambda conv, x: aten(x, conv.weight, conv.bias, [2, 2]),
}


def strides(answer: torch.Tensor) -> bool:
    """Whether a convolution with stride is among what made it."""
    todo, found = [answer.grad_fn], []
    while todo:
        node = todo.pop()
        found += [node._saved_stride] if node.name() == "ConvolutionBackward0" else []
        todo += [before for before, _ in node.next_functions if before is not None]
    return any(max(stride) > 1 for stride in found)


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
def test_every_road_is_safe_and_computes_the_same(road):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 5, 1, stride=2)
    images = torch.randn(2, 8, 37, 50, requires_grad=True)
    wanted = conv(images)
    gradients = torch.autograd.grad((wanted**2).sum(), (images, *conv.parameters()))
    with SafeStridedConvolutions():
        found = road(conv, images)
    assert strides(wanted) and not strides(found)
    torch.testing.assert_close(found, wanted)
    for gradient, expected in zip(torch.autograd.grad((found**2).sum(), (images, *conv.parameters())), gradients):
        torch.testing.assert_close(gradient, expected)


def test_other_convolutions_stay_as_they_are():
    convs = [
        nn.Conv2d(8, 5, 3, stride=2), nn.Conv2d(8, 8, 1, stride=2, groups=2), nn.Conv2d(16, 5, 1, stride=2),
        nn.Conv2d(8, 5, 1, stride=2, padding=1),
    ]  # fmt: skip
    with SafeStridedConvolutions():
        assert all(strides(conv(torch.randn(2, conv.in_channels, 40, 40))) for conv in convs)
        with torch.autocast("cpu", torch.bfloat16):
            conv = nn.Conv2d(8, 5, 1, stride=2)
            assert strides(conv(torch.randn(2, 8, 32, 32))) and not strides(conv(torch.randn(2, 8, 33, 32)))


class Own(nn.Module):
    """Code that calls the convolution by itself, in a part that is computed anew in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.weight, self.saw = nn.Conv2d(1, 8, 3), nn.Parameter(torch.randn(3, 8, 1, 1)), []
        self.reentrant = reentrant

    def part(self, x: torch.Tensor) -> torch.Tensor:
        answer = F.conv2d(x, self.weight, stride=2)
        if torch.is_grad_enabled():
            self.saw.append(strides(answer))
        return answer.sin()  # asks for what the convolution answered

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.part, self.first(x), use_reentrant=self.reentrant).mean((2, 3))


@pytest.mark.parametrize("reentrant", [False, True])
def test_training_is_safe_in_the_networks_own_code(reentrant):
    """Also in a part that is computed anew."""
    labels = torch.arange(3).repeat(4)
    views = Views(torch.randint(256, (12, 1, 9, 9), dtype=torch.uint8), labels, Augment(crop_padding=0), 0)
    state = TrainState(Own(reentrant), Machine("cpu", "fp32", False, torch.get_num_threads()))
    training = Training(epochs=1, batch=6, learning_rate=0.01)

    def loss(model, batch):
        logits = model(batch.images)
        return F.cross_entropy(logits, batch.labels), logits

    fit(state, loss, views, torch.arange(12), training)
    assert state.model.saw == [False] * (2 if reentrant else 4)


def test_gradients_for_an_importance_are_safe_in_parts_that_are_computed_anew():
    model = Own(reentrant=False)
    collect_gradients(model, [torch.randn(4, 1, 9, 9)], lambda model, batch: model(batch).square().sum())
    assert model.saw == [False, False]
