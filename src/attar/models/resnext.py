"""ResNeXt-29 for small images (Xie et al. 2017, arXiv 1611.05431): bottlenecks whose 3x3 works in groups."""

import torch
from torch import nn

from attar.models.checks import positive
from attar.models.layers import AvgPool2d, convolution, initialise
from attar.models.resnet import Bottleneck


class ResNeXt(nn.Module):
    """3x3 stem to 64 channels, three stages of three blocks to 256, 512, 1024, mean over positions, linear."""

    def __init__(self, cardinality: int, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        inputs, blocks = 64, []
        for stage in range(3):
            for i in range(3):
                inner, outputs = cardinality * width * 2**stage, 256 * 2**stage
                blocks.append(Bottleneck(inputs, inner, 2 if stage and i == 0 else 1, outputs, cardinality))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.avgpool = AvgPool2d()
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnext29(cardinality: int = 8, width: int = 64, in_channels: int = 1, classes: int = 10) -> ResNeXt:
    """ResNeXt-29, cardinality x width d: 8x64d unless asked otherwise, as in the paper's CIFAR experiments.

    `cardinality` is the number of groups, `width` the channels of a group in the first stage; both at most 1,024.
    Raises ValueError for arguments that make no network.
    """
    return ResNeXt(
        positive("cardinality", cardinality, 1024),
        positive("width", width, 1024),
        positive("in_channels", in_channels),
        positive("classes", classes),
    )
