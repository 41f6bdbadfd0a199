"""Any Python data set: something with a length that gives (image, label) by index."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from attar.data.cache import paced
from attar.data.convert import Array, number_names, tell_unseen, to_images, to_labels
from attar.data.images import DataError, ImageData, Progress, image_data

_PLAIN = {"P": "RGB", "PA": "RGB", "1": "L"}
"""Modes of Pillow whose numbers are no brightness, and what they are turned into: palettes and bits."""


class Dataset(Protocol):
    """What torch, torchvision and Hugging Face data sets have in common, items being (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_dataset(
    train: Dataset,
    test: Dataset,
    class_names: Sequence[str] | None = None,
    name: str = "dataset",
    progress: Progress | None = None,
) -> ImageData:
    """Reads two data sets once, whole, into memory.

    Images: Pillow's (all grey or all colour), arrays (H, W) or (H, W, C), or tensors (C, H, W); 0..255 or fractions
    0..1, not normalised, not augmented, all of one size. Labels: class numbers. Names default to the training set's
    `classes`, else to the numbers. Raises DataError naming the part and the item.
    """
    parts = [_read(data, f"{name}: {part}", progress) for data, part in ((train, "training"), (test, "test"))]
    names = class_names if class_names is not None else getattr(train, "classes", None)
    if names is None:
        names = number_names(parts[0][1], parts[1][1], name)
    data = image_data(name, parts[0], parts[1], tuple(str(each) for each in names), "Python data set")
    tell_unseen(data.labels, data.class_names, name, progress)
    return data


def _read(data: Dataset, what: str, progress: Progress | None) -> tuple[Tensor, Tensor]:
    count = len(data)
    if count == 0:
        raise DataError(f"{what} data set is empty")
    pace = paced(progress)
    labels = np.empty(count, dtype=np.int64)
    images: Tensor | None = None
    for index in range(count):
        item = data[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"{what} item {index} must be (image, label), not {type(item).__name__}")
        image = to_images(_array(item[0])[None], f"{what} item {index}")
        if images is None:
            images = torch.empty(count, *image.shape[1:], dtype=torch.uint8)
        if image.shape[1:] != images.shape[1:]:
            raise DataError(
                f"{what} item {index} is {tuple(image.shape[1:])} (C, H, W), those before {tuple(images.shape[1:])};"
                " resize them alike"
            )
        images[index] = image[0]
        label = np.asarray(item[1]).reshape(-1)
        if len(label) != 1:
            raise DataError(f"{what} item {index} has {len(label)} labels; give one class number for each image")
        labels[index] = to_labels(label, f"{what} label {index}").item()
        pace(f"reading {what} images: {index + 1} of {count}", (index + 1) / count)
    assert images is not None
    return images, torch.from_numpy(labels)


def _array(image: Any) -> Array:
    """An array as it is; Pillow's image in grey or colours; a tensor (C, H, W) with its channels last."""
    if isinstance(image, Tensor):
        array = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
        return array.transpose(1, 2, 0) if array.ndim == 3 else array
    if (mode := getattr(image, "mode", None)) in _PLAIN:
        image = image.convert(_PLAIN[mode])
    return np.asarray(image)
