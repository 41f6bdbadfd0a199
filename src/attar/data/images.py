"""What a data source gives: images, labels, names, and a fingerprint of all of it."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PIECE_BYTES = 1 << 24

# Told what is going on when it takes longer than a moment: a line of text, and the fraction done where it is known.
Progress = Callable[[str, float | None], None]


class DataError(ValueError):
    """Data that cannot be found, read or trusted; the message names the file and the way out."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """A classification data set, whole.

    images, test_images: uint8 (N, C, H, W); labels, test_labels: int64 (N,), each in 0 .. len(class_names)-1.
    fingerprint: sha256 (hex) of the content. source: where it was found.
    store: the file that `images` are mapped from, as its first bytes; None where they are in memory.
    """

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    store: Path | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width


def image_data(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: tuple[str, ...],
    source: str,
    fingerprint: str | None = None,
) -> ImageData:
    """Checks the parts against one another and puts them together. Raises DataError naming what does not fit."""
    if len(set(class_names)) < len(class_names):
        twice = next(class_name for class_name in class_names if class_names.count(class_name) > 1)
        raise DataError(f"{name}: two classes are called {twice!r}; every class needs a name of its own")
    for part, (images, labels) in (("training", train), ("test", test)):
        _check_part(f"{name}: {part}", images, labels, len(class_names))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{name}: training images are {_times(train[0].shape[1:])}, test images {_times(test[0].shape[1:])}"
            " (channels x height x width); they must be alike"
        )
    return ImageData(name, *train, *test, class_names, fingerprint or content_hash(train, test, class_names), source)


def checked(data: ImageData) -> ImageData:
    """Data that a user made or changed: checked, with the fingerprint of what it holds now.

    `store` stays only where the file still holds these images. Raises DataError naming what does not fit.
    """
    train, test = (data.images.cpu(), data.labels.cpu()), (data.test_images.cpu(), data.test_labels.cpu())
    again = image_data(data.name, train, test, tuple(data.class_names), data.source)
    return replace(again, store=data.store) if data.store and _begins_with(data.store, again.images) else again


def content_hash(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], class_names: tuple[str, ...]) -> str:
    """sha256 (hex) over shapes, pixels, labels (as little-endian int64) and class names."""
    content = hashlib.sha256()
    for images, labels in (train, test):
        content.update(struct.pack("<4q", *images.shape))
        content.update(images.contiguous().numpy().reshape(-1).data)
        content.update(labels.numpy().astype("<i8").tobytes())
    content.update("\n".join(class_names).encode())
    return content.hexdigest()


def pixel_statistics(images: Tensor, samples: Tensor | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in units of 0..1, over the given samples (all by default).

    Exact: sums over histograms of pixel values, so the result does not depend on threads or on the order of addition.
    """
    if samples is not None and len(samples) < len(images):
        chosen = torch.zeros(len(images), dtype=torch.bool).index_fill_(0, samples.cpu(), True)
    else:
        chosen = torch.ones(len(images), dtype=torch.bool)
    means, deviations = [], []
    piece = max(1, _PIECE_BYTES // images[0].numel())
    histograms = sum(_histograms(part[keep]) for part, keep in zip(images.split(piece), chosen.split(piece)))
    for histogram in histograms.tolist():  # type: ignore[union-attr]
        count = sum(histogram)
        total = sum(value * n for value, n in enumerate(histogram))
        squares = sum(value * value * n for value, n in enumerate(histogram))
        means.append(total / count / 255)
        deviations.append(max(count * squares - total * total, 0) ** 0.5 / count / 255)
    return tuple(means), tuple(deviations)


def _histograms(images: Tensor) -> Tensor:
    """How often each pixel value occurs: int64 (C, 256)."""
    channels = images.shape[1]
    flat = images.transpose(0, 1).reshape(channels, -1)
    return torch.stack([torch.bincount(channel.int(), minlength=256) for channel in flat])


def _check_part(what: str, images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"{what} images must be uint8 (N, C, H, W) with none of these 0, not {images.dtype} {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{what} labels must be whole numbers (int64), one for each of the {len(images):,} images,"
            f" not {labels.dtype} {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{what} labels go from {low} to {high}, but there are {classes} classes (0 .. {classes - 1})")


def _begins_with(file: Path, images: Tensor) -> bool:
    """Whether these images are the first bytes of the file."""
    if not file.exists() or file.stat().st_size < images.nbytes:
        return False
    stored = torch.from_file(str(file), size=images.nbytes, dtype=torch.uint8).view(images.shape)
    piece = max(1, _PIECE_BYTES // images[0].numel())
    return all(torch.equal(*pair) for pair in zip(stored.split(piece), images.split(piece)))


def _times(shape: Any) -> str:
    return "x".join(str(size) for size in shape)
