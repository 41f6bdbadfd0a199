"""Data sets by name."""

import os
from collections.abc import Callable
from pathlib import Path

from attar.data.cifar import load_cifar10, load_cifar100
from attar.data.digits import load_digits
from attar.data.fashion_mnist import load_fashion_mnist
from attar.data.folder import load_folder
from attar.data.function import load_function
from attar.data.huggingface import load_huggingface
from attar.data.images import DataError, ImageData, Progress
from attar.data.npz import load_npz
from attar.names import closest, names_function

_BY_NAME: dict[str, Callable[[Path | None, Progress | None], ImageData]] = {
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
}
_KINDS = ("npz", "folder", "hf")
_SIZED = ("folder", "hf")
NAMES = (*_BY_NAME, *(f"{kind}:PATH" for kind in _KINDS), "package.module:function")


def runs_code(name: str) -> bool:
    """Whether that name of a data set is of a function of somebody's: a name from a file must not get to run it."""
    return names_function(name) and name.partition(":")[0] not in _KINDS


def load_data(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    size: int | None = None,
) -> ImageData:
    """The data set of that name, checked: "fashion-mnist", "cifar10", "cifar100", "digits", "npz:FILE", "folder:PATH",
    "hf:NAME_OR_PATH" (see `load_huggingface`), or "package.module:function", which runs the user's own code (see
    `load_function`).

    folder: where to look for its files first; FILE and PATH may be relative to it.
    progress: told a line and the fraction done (or None) while it works.
    size: of the sides that pictures are scaled and cut to, pixels; for "folder:" and "hf:".
    Raises DataError (a ValueError) naming the file, what is wrong with it, and the way out.
    """
    place = None if folder is None else Path(folder).expanduser()
    kind, _, path = name.partition(":")
    if size is not None and (kind not in _SIZED or size < 1):
        raise DataError(f"size = {size}: folder: and hf: have one (in pixels, 1 or more), {name!r} has not")
    if kind == "hf" and path:
        return load_huggingface(path, place, progress, size)
    if kind in _KINDS and path:
        at = (place or Path()) / Path(path).expanduser()
        return load_folder(at, progress, size) if kind == "folder" else load_npz(at, progress)
    if runs_code(name):
        return load_function(name, place, progress, _KINDS)
    if name in _BY_NAME:
        return _BY_NAME[name](place, progress)
    hint = closest(name.lower().replace("_", "-"), NAMES)
    raise DataError(f"there is no data set {name!r}{hint}; attar has {', '.join(NAMES)}")
