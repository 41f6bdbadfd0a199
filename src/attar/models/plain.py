"""A plain network without shortcuts: the small student of early distillation experiments."""

from collections.abc import Sequence

import torch
from torch import nn

from attar.models.checks import fraction, positive, positives
from attar.models.layers import initialise


class PlainCNN(nn.Module):
    """Three times 3x3 convolution, BN, max pool, ReLU; then two linear layers with BN and dropout between."""

    def __init__(
        self, widths: Sequence[int], hidden: int, size: int, dropout: float, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inputs = in_channels
        for width in widths:
            parts += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU()]
            inputs = width
        self.features = nn.Sequential(*parts)
        self.fc1 = nn.Linear(inputs * (size // 8) ** 2, hidden)
        self.bn = nn.BatchNorm1d(hidden)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.fc1(self.features(x).flatten(1))))
        return self.fc2(self.dropout(x))


def cnn5(
    widths: Sequence[int] = (32, 64, 128),
    hidden: int = 128,
    size: int = 28,
    dropout: float = 0.0,
    in_channels: int = 1,
    classes: int = 10,
) -> PlainCNN:
    """Five layers: three convolutions, each halving the resolution, and two linear layers, for images of size x size.

    The shape of the small student in haitongli/knowledge-distillation-pytorch, which the reference names. `size` is at
    least 8. Raises ValueError for arguments that make no network.
    """
    if positive("size", size, 1 << 14) < 8:
        raise ValueError(f"size must be at least 8, for three halvings, not {size}")
    return PlainCNN(
        positives("widths", widths, 3),
        positive("hidden", hidden),
        size,
        fraction("dropout", dropout),
        positive("in_channels", in_channels),
        positive("classes", classes),
    )
