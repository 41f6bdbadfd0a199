"""DenseNet-BC for small images (Huang et al. 2017, arXiv 1608.06993): every layer reads all before it."""

import torch
from torch import nn

from attar.models.checks import fraction, positive
from attar.models.layers import AvgPool2d, convolution, initialise


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 4 x growth, BN, ReLU, 3x3 to growth; the result is appended to the input's channels."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = convolution(inputs, 4 * growth, 1)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = convolution(4 * growth, growth, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.relu1(self.bn1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.bn2(y)))], 1)


class DenseNet(nn.Module):
    """3x3 stem, three dense blocks with transitions between, BN, ReLU, mean over positions, linear."""

    def __init__(self, layers: int, growth: int, compression: float, in_channels: int, classes: int) -> None:
        super().__init__()
        width = 2 * growth
        parts: list[nn.Module] = [convolution(in_channels, width, 3)]
        for block in range(3):
            for _ in range(layers):
                parts.append(DenseLayer(width, growth))
                width += growth
            if block < 2:
                narrow = int(width * compression)
                parts += [nn.BatchNorm2d(width), nn.ReLU(), convolution(width, narrow, 1), nn.AvgPool2d(2)]
                width = narrow
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU())
        self.avgpool = AvgPool2d()
        self.fc = nn.Linear(width, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(self.features(x)).flatten(1))


def densenet_bc(
    depth: int = 100, growth: int = 12, compression: float = 0.5, in_channels: int = 1, classes: int = 10
) -> DenseNet:
    """DenseNet-BC of depth 6n + 4 and growth rate k: three blocks of n bottleneck layers.

    Transitions keep the share `compression` of the channels and halve the resolution, so images are 4 x 4 at least.
    Raises ValueError for arguments that make no network.
    """
    if positive("depth", depth, 10_000) < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4, such as 40, 100, 190 or 250, not {depth}")
    kept = fraction("compression", compression)
    if kept * 3 * positive("growth", growth, 1 << 14) < 1:
        raise ValueError(f"compression must leave at least a channel, {compression!r} does not")
    return DenseNet((depth - 4) // 6, growth, kept, positive("in_channels", in_channels), positive("classes", classes))
