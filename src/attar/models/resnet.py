"""Residual networks for small images (He et al. 2015): CIFAR-style ResNet-20/32/44/56/110 and ResNet-50.

Names of parameters are torchvision's, so that its ResNet-50 weights load where the stem is `imagenet`.
"""

from collections.abc import Sequence

import torch
from torch import nn

from attar.models.checks import one_of, positive, positives
from attar.models.layers import AvgPool2d, convolution, initialise

STEMS = ("imagenet", "stride2", "small")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; (B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = convolution(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, maybe grouped), 1x1 to four times the width if nothing else is said, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, outputs: int | None = None, groups: int = 1) -> None:
        super().__init__()
        outputs = outputs or width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A 1x1 convolution and BatchNorm where the shape changes, nothing where it does not."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """Stem, stages of residual blocks, mean over positions, linear; (B, in_channels, H, W) -> logits (B, classes)."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        in_channels: int,
        classes: int,
        stem: str,
    ) -> None:
        super().__init__()
        kernel, stride = {"imagenet": (7, 2), "stride2": (3, 2), "small": (3, 1)}[stem]
        self.conv1 = convolution(in_channels, widths[0], kernel, stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else None
        inputs = widths[0]
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for name, depth, width, stride in zip(self.stages, depths, widths, strides):
            blocks = []
            for i in range(depth):
                blocks.append(block(inputs, width, stride if i == 0 else 1))
                inputs = width * block.expansion
            self.add_module(name, nn.Sequential(*blocks))
        self.avgpool = AvgPool2d()
        self.fc = nn.Linear(inputs, classes)
        initialise(self)
        for module in self.modules():
            if isinstance(
                module, Bottleneck
            ):  # blocks start as identities (Goyal et al. 2017): 16 of them train at once
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.avgpool(x).flatten(1))


def cifar_resnet(
    depth: int,
    widths: Sequence[int] = (16, 32, 64),
    strides: Sequence[int] = (1, 2, 2),
    in_channels: int = 1,
    classes: int = 10,
) -> ResNet:
    """ResNet of 6n + 2 layers (He et al. 2015, section 4.2): three stages of n basic blocks, 3x3 stem.

    Shortcuts that change shape are 1x1 convolutions with BatchNorm, as in the reference. `widths` and `strides` are one
    number for each stage; a budget of parameters does not charge for strides of 1. Raises ValueError for arguments that
    make no network.
    """
    n = (depth - 2) // 6
    return ResNet(
        BasicBlock,
        (n, n, n),
        positives("widths", widths, 3),
        positives("strides", strides, 3),
        positive("in_channels", in_channels),
        positive("classes", classes),
        "small",
    )


def resnet50(
    stem: str = "imagenet",
    widths: Sequence[int] = (64, 128, 256, 512),
    in_channels: int = 1,
    classes: int = 10,
) -> ResNet:
    """ResNet-50 with bottleneck blocks (stride in the 3x3, as torchvision's), for small or ordinary images.

    `stem`: `imagenet` is 7x7 stride 2 and max pool, `stride2` 3x3 stride 2, `small` 3x3 stride 1. `widths` are the
    bottlenecks' inner widths; a stage ends in four times as many channels.
    Raises ValueError for arguments that make no network.
    """
    return ResNet(
        Bottleneck,
        (3, 4, 6, 3),
        positives("widths", widths, 4),
        (1, 2, 2, 2),
        positive("in_channels", in_channels),
        positive("classes", classes),
        one_of("stem", stem, STEMS),
    )
