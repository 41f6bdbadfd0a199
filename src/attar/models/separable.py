"""A residual network of depthwise separable convolutions: most accuracy for few parameters at small images.

A 3x3 convolution is split into one for each channel and a 1x1 convolution across channels (Chollet 2017; Howard et al. 2017),
an eighth to a ninth of the parameters, so that more of them go into width and depth at high resolution.
"""

from collections.abc import Sequence

import torch
from torch import nn

from attar.models.checks import positive, positives
from attar.models.layers import AvgPool2d, convolution, initialise

MOST_STAGES, MOST_BLOCKS = 8, 256
"""Of a network, and of a stage: no more are taken for meant."""


class SeparableBlock(nn.Module):
    """3x3 for each channel, 1x1 across them, and a shortcut where the shape stays.

    (B, inputs, H, W) -> (B, outputs, H/stride, W/stride). Between the two stands a BatchNorm without parameters: it helps the
    training, and a scale and shift there would be those of the 1x1 and its norm over again. There is no ReLU after the sum.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = convolution(inputs, inputs, 3, stride, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs, affine=False)
        self.pointwise = convolution(inputs, outputs, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn2(self.pointwise(self.bn1(self.depthwise(x)))))
        return x + y if self.residual else y


class SeparableResNet(nn.Module):
    """3x3 stem, stages of separable blocks, mean over positions, linear; (B, in_channels, H, W) -> logits (B, classes)."""

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], strides: Sequence[int], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        inputs = widths[0]
        self.stem = nn.Sequential(convolution(in_channels, inputs, 3), nn.BatchNorm2d(inputs), nn.ReLU())
        stages = []
        for width, depth, stride in zip(widths, depths, strides):
            blocks = []
            for i in range(depth):
                blocks.append(SeparableBlock(inputs, width, stride if i == 0 else 1))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.avgpool = AvgPool2d()
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(self.stages(self.stem(x))).flatten(1))


def separable_resnet(
    widths: Sequence[int] = (32, 64),
    depths: Sequence[int] = (8, 3),
    strides: Sequence[int] = (2, 2),
    in_channels: int = 1,
    classes: int = 10,
) -> SeparableResNet:
    """Residual network of depthwise separable convolutions for small images; 24,074 parameters as it is.

    `widths`, `depths` (blocks) and `strides` (of the first block) are one number for each stage, of which there are as many
    as widths. The stem keeps the resolution and has the first stage's width. Raises ValueError for arguments that make
    no network.
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not 1 <= len(widths) <= MOST_STAGES:
        raise ValueError(
            f"widths must be whole numbers, one for each of 1 to {MOST_STAGES} stages, not {widths!r:.200}"
        )
    return SeparableResNet(
        positives("widths", widths, len(widths)),
        positives("depths", depths, len(widths), MOST_BLOCKS),
        positives("strides", strides, len(widths)),
        positive("in_channels", in_channels),
        positive("classes", classes),
    )
