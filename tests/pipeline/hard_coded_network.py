"""Networks of a user's own, with code that hard-codes sizes."""

import torch
from torch import nn


class HardCoded(nn.Module):
    """A view whose size is written in the code: the module cannot follow a cut, its captured graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = x.view(-1, 12, 64).unflatten(2, (8, 8))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def hard_coded() -> nn.Module:
    return HardCoded()
