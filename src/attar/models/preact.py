"""Residual networks that normalise before they convolve: PreAct-ResNet (He et al. 2016) and Wide-ResNet (2016)."""

from collections.abc import Sequence

import torch
from torch import nn

from attar.models.checks import fraction, positive, positives
from attar.models.layers import AvgPool2d, convolution, initialise


class PreActBlock(nn.Module):
    """BN, ReLU, 3x3, BN, ReLU, (dropout,) 3x3 and a shortcut; where the shape changes, a 1x1 after the first ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv2 = convolution(outputs, outputs, 3)
        self.downsample = convolution(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu1(self.bn1(x))
        y = self.relu2(self.bn2(self.conv1(active)))
        if self.dropout is not None:
            y = self.dropout(y)
        return self.conv2(y) + (x if self.downsample is None else self.downsample(active))


class PreActNet(nn.Module):
    """3x3 stem, stages of such blocks, BN, ReLU, mean over positions, linear; (B, channels, H, W) -> (B, classes)."""

    def __init__(
        self,
        stem: int,
        depths: Sequence[int],
        widths: Sequence[int],
        in_channels: int,
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, stem, 3)
        inputs, blocks = stem, []
        for stage, (depth, width) in enumerate(zip(depths, widths)):
            for i in range(depth):
                blocks.append(PreActBlock(inputs, width, 2 if stage and i == 0 else 1, dropout))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.avgpool = AvgPool2d()
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def preact_resnet18(widths: Sequence[int] = (64, 128, 256, 512), in_channels: int = 1, classes: int = 10) -> PreActNet:
    """PreAct-ResNet-18 for small images (He et al. 2016, arXiv 1603.05027): four stages of two blocks.

    Raises ValueError for arguments that make no network.
    """
    widths = positives("widths", widths, 4)
    return PreActNet(
        widths[0], (2, 2, 2, 2), widths, positive("in_channels", in_channels), positive("classes", classes)
    )


def wide_resnet(
    depth: int = 28, widen: int = 10, dropout: float = 0.0, in_channels: int = 1, classes: int = 10
) -> PreActNet:
    """Wide-ResNet-depth-widen (Zagoruyko & Komodakis 2016, arXiv 1605.07146): three stages of (depth - 4) / 6 blocks.

    `widen` multiplies the widths 16, 32, 64; `dropout` is between the convolutions of a block. Raises ValueError for
    arguments that make no network, such as a depth that is not 6n + 4.
    """
    if positive("depth", depth, 10_000) < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4, such as 16, 22, 28 or 40, not {depth}")
    n, k = (depth - 4) // 6, positive("widen", widen, 1 << 14)
    return PreActNet(
        16,
        (n, n, n),
        (16 * k, 32 * k, 64 * k),
        positive("in_channels", in_channels),
        positive("classes", classes),
        fraction("dropout", dropout),
    )
