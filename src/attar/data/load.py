"""Data sets by name."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from attar.data.cifar import load_cifar10, load_cifar100
from attar.data.digits import load_digits
from attar.data.fashion_mnist import load_fashion_mnist
from attar.data.images import DataError, ImageData, Progress
from attar.data.npz import load_npz

_BY_NAME: dict[str, Callable[[Path | None, Progress | None], ImageData]] = {
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
}
_BY_PATH: dict[str, Callable[[Path, Progress | None], ImageData]] = {"npz": load_npz}
NAMES = (*_BY_NAME, *(f"{kind}:PATH" for kind in _BY_PATH))


def load_data(name: str, folder: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> ImageData:
    """The data set of that name, checked: "fashion-mnist", "cifar10", "cifar100", "digits", or "npz:FILE".

    folder: where to look for its files first; FILE may be relative to it.
    progress: told a line and the fraction done (or None) while it works.
    Raises DataError (a ValueError) naming the file, what is wrong with it, and the way out.
    """
    place = None if folder is None else Path(folder).expanduser()
    kind, colon, path = name.partition(":")
    if colon and kind in _BY_PATH and path:
        return _BY_PATH[kind]((place or Path()) / Path(path).expanduser(), progress)
    if name in _BY_NAME:
        return _BY_NAME[name](place, progress)
    close = difflib.get_close_matches(name.lower().replace("_", "-"), NAMES, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise DataError(f"there is no data set {name!r}{hint} Known: {', '.join(NAMES)}")
