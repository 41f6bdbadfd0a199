"""A store of decoded pictures on disk: written once, in pieces that survive a kill, then mapped into memory."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.data.cache import paced, under_way
from attar.data.convert import Array
from attar.data.images import DataError, Progress
from attar.data.pictures import BadPictureError, Source, read_picture
from attar.files import write_whole

PIXELS, _STATE = "images.u8", "state.json"
_PIECE = 256
_SAVE_SECONDS = 2.0


@dataclass(frozen=True)
class Decoded:
    """`images`, mapped, are those of the pictures that are not in `bad` (index -> reason), in order."""

    images: Tensor
    bad: dict[int, str]


def write_json(path: Path, value: Any) -> None:
    """The file has its old or its new content, never a part."""
    write_whole(path, json.dumps(value), under_way(path))


def decode(
    count: int,
    open_some: Callable[[int, int], Sequence[Source]],
    shape: tuple[int, int, int],
    folder: Path,
    progress: Progress | None,
) -> Decoded:
    """Decodes `count` pictures, or what is left of them, into the store of this folder.

    open_some: gives the pictures from the first index up to, without, the second; asked in order.
    Raises DataError if the disk is too small.
    """
    row = shape[0] * shape[1] * shape[2]
    state = _state(folder)
    done, bad = state["done"], {int(index): reason for index, reason in state["bad"].items()}
    pixels = folder / PIXELS
    pixels.touch()
    if pixels.stat().st_size < (done - len(bad)) * row:  # it lost some of what the state tells of
        done, bad = 0, {}
    _check_room(folder, (count - done) * row)
    pace = paced(progress)
    with pixels.open("rb+") as store, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        store.truncate((done - len(bad)) * row)  # what was written after the last saved state
        store.seek(0, os.SEEK_END)
        saved = time.monotonic()
        while done < count:
            piece = open_some(done, min(done + _PIECE, count))
            for index, result in enumerate(pool.map(lambda source: _decode(source, shape), piece), start=done):
                if isinstance(result, str):
                    bad[index] = result
                else:
                    _write(store, result, folder)
            done += len(piece)
            pace(f"decoding images: {done} of {count}, {len(bad)} bad", done / count)
            if time.monotonic() - saved >= _SAVE_SECONDS or done == count:
                store.flush()
                os.fsync(store.fileno())
                write_json(folder / _STATE, {"done": done, "bad": bad})
                saved = time.monotonic()
    return Decoded(map_images(folder, count - len(bad), shape), bad)


def map_images(folder: Path, count: int, shape: tuple[int, int, int]) -> Tensor:
    """The store's images, uint8 (count, C, H, W), read from the disk when they are touched.

    Raises DataError if the store is not of this size.
    """
    path = folder / PIXELS
    size = count * shape[0] * shape[1] * shape[2]
    if not path.exists() or path.stat().st_size != size:
        raise DataError(f"the store {path} is not {size} bytes; remove its folder, and it is made again")
    if size == 0:
        return torch.empty(0, *shape, dtype=torch.uint8)
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(count, *shape)


def _state(folder: Path) -> Any:
    path = folder / _STATE
    return json.loads(path.read_text()) if path.exists() else {"done": 0, "bad": {}}


def _decode(source: Source, shape: tuple[int, int, int]) -> Array | str:
    try:
        return read_picture(source, shape)
    except BadPictureError as error:
        return str(error)


def _write(store: Any, image: Array, folder: Path) -> None:
    try:
        store.write(image.tobytes())
    except OSError as error:
        raise DataError(
            f"cannot write decoded images to {folder}: {error}; set ATTAR_CACHE to a larger disk"
        ) from error


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"decoded images need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; set ATTAR_CACHE to a"
            " larger disk, or ask for smaller images"
        )
