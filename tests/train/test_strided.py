"""Strided 1x1 convolutions of few channels train on large pictures."""

import subprocess
import sys

import torch
from torch import nn

from attar.train.strided import safe_strided_convolutions

ALONE = """
import torch, attar
from attar.train.strided import safe_strided_convolutions
torch.set_num_threads(1)
model = attar.build("resnet20", widths=(8, 8, 8), classes=2, in_channels=1).to(memory_format=torch.channels_last)
images = torch.randn(8, 1, 64, 64).to(memory_format=torch.channels_last)
with safe_strided_convolutions(model):
    for _ in range(3):
        model(images).sum().backward()
print("alive")
"""


def test_a_narrow_network_survives_large_pictures():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
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
