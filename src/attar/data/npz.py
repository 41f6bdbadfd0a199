"""Images and labels as arrays, by name: in one .npz file, or from a function of the user's."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from attar.data.cache import tell
from attar.data.convert import Array, number_names, tell_unseen, to_images, to_labels
from attar.data.images import DataError, ImageData, Progress, image_data

# Training images and labels, test images and labels: Keras' names, MedMNIST's names.
LAYOUTS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


def load_npz(path: Path, progress: Progress | None = None) -> ImageData:
    """The images of a .npz file with the arrays x_train, y_train, x_test and y_test, or MedMNIST's train_images etc.

    Grey (N, H, W) or with channels (see `to_images`); class names in an optional array `class_names`. MedMNIST's
    validation part is left aside: attar holds out a part of the training images itself.
    Nothing pickled is read. Raises DataError.
    """
    return from_arrays(_read(path), path.stem, str(path), progress)


def from_arrays(arrays: Mapping[str, Array], name: str, source: str, progress: Progress | None = None) -> ImageData:
    """The data set of arrays with the names of a .npz file, as `load_npz` says. Raises DataError."""
    layout = next((names for names in LAYOUTS if all(name in arrays for name in names)), None)
    if layout is None:
        raise DataError(
            f"{source} has the arrays {', '.join(sorted(arrays)) or '(none)'}; needed are "
            + " or ".join(", ".join(names) for names in LAYOUTS)
        )
    if "val_images" in arrays:
        tell(progress, f"{Path(source).name}: its {len(arrays['val_images'])} validation images are left aside")
    train, test = (
        (to_images(arrays[images], f"{source}: {images}"), to_labels(arrays[labels], f"{source}: {labels}"))
        for images, labels in (layout[:2], layout[2:])
    )
    names = arrays.get("class_names")
    if names is not None:
        class_names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.ravel().tolist())
    else:
        class_names = number_names(train[1], test[1], source)
    data = image_data(name, train, test, class_names, source)
    tell_unseen(data.labels, class_names, Path(source).name, progress)
    return data


def _read(path: Path) -> Mapping[str, Array]:
    if not path.exists():
        raise DataError(f"there is no file {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no .npz file, or is truncated")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        pickled = "pickle" in str(error).lower()
        reason = "holds Python objects, which attar does not unpickle" if pickled else f"cannot be read: {error}"
        raise DataError(f"{path} {reason}") from error
