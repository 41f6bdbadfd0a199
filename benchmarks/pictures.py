"""Per-sample transforms as torchvision's tutorials have them, on Pillow images made from arrays in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from torchvision_ops import define_missing_operators

define_missing_operators()  # before torchvision is imported

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

SIZE, PADDING = 28, 2


class Pictures(Dataset[tuple[Tensor, int]]):
    """Grey images uint8 (N, H, W) and labels; an item is made a Pillow image, then transformed."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images, [int(label) for label in labels], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def training(mean: float, std: float) -> transforms.Compose:
    """Crop, mirror, normalise, erase."""
    return transforms.Compose(
        [
            transforms.RandomCrop(SIZE, padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((mean,), (std,)),
            transforms.RandomErasing(p=0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3)),
        ]
    )


def plain(mean: float, std: float) -> transforms.Compose:
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize((mean,), (std,))])
