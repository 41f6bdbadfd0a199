"""Strided 1x1 convolutions of few channels train: on any CPU, by any road, with the right gradient."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from attar.models import safe_strided_convolutions

ALONE = """
import sys, torch, attar
from attar.models import safe_strided_convolutions
size, width, threads, dtype = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), getattr(torch, sys.argv[4])
torch.set_num_threads(threads)
model = attar.build("resnet20", widths=(width, width, width), classes=2, in_channels=1).to(memory_format=torch.channels_last)
images = torch.randn(8, 1, size, size).to(memory_format=torch.channels_last)
narrow = [module for module in model.modules() if getattr(module, "stride", 1) == (2, 2) and module.kernel_size == (1, 1)]
for module in narrow:
    module.register_forward_hook(lambda module, given, answer: setattr(module, "saw", (given[0].detach(), answer)))
with safe_strided_convolutions(model) as count:
    assert count == len(narrow) == 2
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
assert not any("forward" in vars(module) for module in model.modules())
print("alive")
"""


def test_gradients_for_an_importance_are_right_in_channels_last():
    done = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "alive" in done.stdout, done.stderr


def test_it_computes_the_same_and_leaves_no_trace():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 5, 1, stride=2)
    others = nn.Sequential(conv, nn.Conv2d(5, 5, 3, stride=2), nn.Conv2d(5, 5, 1), nn.Conv2d(16, 4, 1, stride=2))
    images = torch.randn(2, 8, 37, 50, requires_grad=True)
    wanted = conv(images)
    (wanted**2).sum().backward()
    gradients = [images.grad.clone(), conv.weight.grad.clone(), conv.bias.grad.clone()]
    images.grad = conv.weight.grad = conv.bias.grad = None
    with safe_strided_convolutions(others) as count:
        assert count == 1 and "forward" in vars(conv)
        found = conv(images)
        (found**2).sum().backward()
    assert "forward" not in vars(conv)
    torch.testing.assert_close(found, wanted)
    for gradient, tensor in zip(gradients, (images, conv.weight, conv.bias)):
        torch.testing.assert_close(tensor.grad, gradient)
