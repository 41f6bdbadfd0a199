"""Arrays of other shapes and types as attar's: uint8 (N, C, H, W) images and int64 labels."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.data.cache import tell
from attar.data.images import DataError, Progress

Array = np.ndarray[Any, np.dtype[Any]]
_MOST_CHANNELS = 4


def to_images(array: Array, what: str) -> Tensor:
    """Images of (N, H, W), (N, H, W, C) or (N, C, H, W), C at most 4, as uint8 (N, C, H, W).

    Whole numbers, of any type, must be 0..255; fractions 0..1, which become 0..255. Raises DataError, which starts with
    `what`, for anything else: images that were normalised lost their range.
    """
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] <= _MOST_CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] > _MOST_CHANNELS:
        raise DataError(
            f"{what} must be images (N, H, W), (N, H, W, C) or (N, C, H, W) with C at most {_MOST_CHANNELS},"
            f" not {array.shape}"
        )
    return torch.from_numpy(np.array(_to_uint8(array, what), order="C"))


def to_labels(array: Array, what: str) -> Tensor:
    """Class numbers of (N,) or (N, 1) as int64 (N,). Raises DataError, which starts with `what`."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{what} must be one class number for each image, (N,) or (N, 1), not {array.shape};"
            " several labels for an image are not supported"
        )
    labels = np.array(array)
    if labels.dtype.kind not in "iu" and not (labels.dtype.kind == "f" and np.all(labels == np.rint(labels))):
        raise DataError(f"{what} must be whole class numbers, not {labels.dtype}")
    return torch.from_numpy(labels.astype(np.int64))


def number_names(labels: Tensor, test_labels: Tensor, what: str) -> tuple[str, ...]:
    """ "0", "1", ... for labels without names. Raises DataError where they cannot be class numbers."""
    classes = int(labels.max()) + 1 if len(labels) else 0
    if classes > len(labels):
        raise DataError(f"{what}: labels up to {classes - 1} for {len(labels)} training images are no class numbers")
    unseen = sorted(set(test_labels.tolist()) - set(labels.tolist()))
    if unseen:
        raise DataError(f"{what}: no training image has the test labels {', '.join(map(str, unseen[:10]))}")
    return tuple(str(number) for number in range(classes))


def tell_unseen(labels: Tensor, class_names: Sequence[str], what: str, progress: Progress | None) -> None:
    """Says which classes have no training image; most often labels were counted from 1."""
    seen = set(labels.tolist())
    if unseen := [name for number, name in enumerate(class_names) if number not in seen]:
        names = ", ".join(unseen[:10])
        tell(progress, f"{what}: no training image is of class {names}; labels count from 0", logging.WARNING)


def _to_uint8(array: Array, what: str) -> Array:
    if array.dtype == np.uint8 or array.size == 0:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{what} must be numbers, not {array.dtype}")
    if array.dtype.kind == "f" and len(bad := np.unique(np.nonzero(np.isnan(array))[0])):
        raise DataError(
            f"{what}: {len(bad):,} of the {len(array):,} images hold NaN, the first of them number {bad[0]}"
        )
    low, high = array.min(), array.max()
    whole = array.dtype.kind in "iu" or (high > 1 and np.array_equal(array, np.rint(array)))  # many keep them as floats
    if not (low >= 0 and high <= (255 if whole else 1)):
        raise DataError(
            f"{what} are {array.dtype} from {low} to {high}; attar takes whole numbers 0..255, or fractions 0..1 (it"
            " normalises images itself)"
        )
    return (array if whole else np.rint(array * 255)).astype(np.uint8)
