"""Data that a function of the user's returns."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from attar.data.dataset import from_dataset
from attar.data.images import DataError, ImageData, Progress, checked
from attar.data.npz import from_arrays
from attar.names import function_named


def load_function(
    name: str, folder: Path | None = None, progress: Progress | None = None, kinds: tuple[str, ...] = ()
) -> ImageData:
    """Calls `package.module:function`, with the folder if there is one, and takes what it returns.

    That is a dictionary of arrays with the names of a .npz file (see `load_npz`), or two Python data sets, training and
    test (see `from_dataset`), or an `ImageData`. `kinds` are words that may stand before a colon for something else.
    Raises DataError where there is no such function or it returns something else.
    """
    try:
        function = function_named(name, kinds)
    except ValueError as error:
        raise DataError(str(error)) from error
    found = function() if folder is None else function(folder)
    own = name.rpartition(":")[2]
    if isinstance(found, ImageData):
        return checked(found)
    if isinstance(found, Mapping):
        return from_arrays({key: np.asarray(value) for key, value in found.items()}, own, name, progress)
    if isinstance(found, tuple | list) and len(found) == 2:
        train, test = found
        return replace(from_dataset(train, test, name=own, progress=progress), source=f"function {name}")
    raise DataError(
        f"{name} returned {type(found).__name__}; it must return a dictionary of x_train, y_train, x_test, y_test, or two"
        " data sets (training, test), or an ImageData"
    )
