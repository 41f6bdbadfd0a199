"""A folder of pictures, a sub-folder for each class, decoded once into a store that later runs map."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from attar.data.cache import cache_folder, make_folder, one_at_a_time, paced, tell
from attar.data.images import DataError, ImageData, Progress, content_hash, image_data
from attar.data.pictures import SUFFIXES, BadPictureError, Header, pillow, read_header
from attar.data.split import split
from attar.data.store import decode, map_images, write_json

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
TEST_SHARE = 0.2
LARGEST_SIDE = 224
_INDEX, _PLAN = "index.json", "plan.json"
_NAMED = 20


@dataclass(frozen=True)
class _Picture:
    path: str
    """Relative to the folder, with slashes."""
    label: int
    test: bool


def load_folder(folder: Path, progress: Progress | None = None, size: int | None = None) -> ImageData:
    """The pictures of `folder/train/CLASS/` and `folder/test/CLASS/`, or of `folder/CLASS/`.

    Without a test folder (a validation folder will do) a fixed fifth of each class is the test part.
    Pictures are made `size` x `size`; by default they stay as they are if all are alike and no side is over 224, else
    their median shorter side, at most 224, is taken. All grey pictures stay grey, else all become RGB.
    They are decoded into attar's cache once; a killed decoding goes on where it was. Bad pictures are named, counted
    and left out. Raises DataError if there is no such layout, no good picture for a class, or no room.
    """
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist or is not a folder")
    pictures, class_names, has_test = _listing(folder, progress)
    store = cache_folder() / "folders" / f"{folder.resolve().name}-{_key(folder, pictures, size)}"
    if not (store / _INDEX).exists():
        make_folder(store)
        with one_at_a_time(store, progress):
            if not (store / _INDEX).exists():
                _build(folder, pictures, class_names, has_test, size, store, progress)
    return _open(folder, store, progress)


def _listing(folder: Path, progress: Progress | None) -> tuple[list[_Picture], list[str], bool]:
    """The pictures in a fixed order, the class names, and whether there is a test part."""
    inner = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    train = next((inner[name] for name in TRAIN_NAMES if name in inner), None)
    tests = [inner[name] for name in TEST_NAMES if name in inner]
    if train is None and tests and not set(inner) - set(TEST_NAMES):
        raise DataError(f"{folder} has {tests[0].name}/ but no train/")
    parts = [(train or folder, False)] + [(test, True) for test in tests[:1] if train]
    for aside in tests[1:] if train else []:
        tell(progress, f"{folder.name}: {aside.name}/ is left aside; {tests[0].name}/ is the test part")
    found = [(path, files, test) for place, test in parts for path, files in _class_folders(place)]
    class_names = [path.name for path, _, test in found if not test]
    if len(class_names) < 2:
        raise DataError(
            f"{parts[0][0]} has pictures of {len(class_names)} classes; needed are sub-folders, one for each class,"
            f" with pictures ({' '.join(sorted(SUFFIXES))})"
        )
    for path, _, _ in found:
        if path.name not in class_names:
            raise DataError(f"{path} has no counterpart among the classes of {parts[0][0]}")
    pictures = [
        _Picture(file.relative_to(folder).as_posix(), class_names.index(path.name), test)
        for path, files, test in found
        for file in files
    ]
    return pictures, class_names, len(parts) == 2


def _class_folders(place: Path) -> list[tuple[Path, list[Path]]]:
    """The sub-folders that have pictures, at any depth, and these, by name."""
    inner = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [
        (path, sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()))
        for path in inner
    ]
    return [(path, files) for path, files in found if files]


def _key(folder: Path, pictures: Sequence[_Picture], size: int | None) -> str:
    """Another store for other files, changed files, or another size."""
    content = hashlib.sha256(f"1 {folder.resolve()} {size}".encode())
    for picture in pictures:
        status = (folder / picture.path).stat()
        content.update(f"\n{picture.path} {picture.test} {status.st_size} {status.st_mtime_ns}".encode())
    return content.hexdigest()[:16]


def _build(
    folder: Path,
    pictures: list[_Picture],
    class_names: list[str],
    has_test: bool,
    size: int | None,
    store: Path,
    progress: Progress | None,
) -> None:
    """Makes the store, or the rest of it. The plan is kept, so that what goes on is what was begun."""
    if not (store / _PLAN).exists():
        write_json(store / _PLAN, _plan(folder, pictures, has_test, size, progress))
    plan = json.loads((store / _PLAN).read_text())
    shape = tuple(plan["shape"])
    files = [folder / path for path, _, _ in plan["pictures"]]
    decoded = decode(files, shape, store, progress)
    bad = plan["bad"] + [[plan["pictures"][index][0], reason] for index, reason in sorted(decoded.bad.items())]
    good = [each for index, each in enumerate(plan["pictures"]) if index not in decoded.bad]
    train = [label for _, label, test in good if not test]
    test = [label for _, label, test in good if test]
    empty = [name for label, name in enumerate(class_names) if label not in set(train)]
    if empty or not test:
        what = f"class {', '.join(empty)}" if empty else "the test part"
        raise DataError(f"{folder}: no readable picture for {what}; {_bad_lines(bad, len(pictures))}")
    parts = [
        (images, torch.tensor(labels))
        for images, labels in zip(decoded.images.split([len(train), len(test)]), (train, test))
    ]
    index = {
        "shape": shape,
        "train": train,
        "test": test,
        "class_names": class_names,
        "bad": bad,
        "count": len(pictures),
        "fingerprint": content_hash(parts[0], parts[1], tuple(class_names)),
    }
    write_json(store / _INDEX, index)


def _plan(
    folder: Path, pictures: Sequence[_Picture], has_test: bool, size: int | None, progress: Progress | None
) -> dict[str, Any]:
    """Which pictures go where (training part first), and their common shape (C, H, W)."""
    headers = _headers(folder, pictures, progress)
    bad = [[picture.path, header] for picture, header in zip(pictures, headers) if isinstance(header, str)]
    good = [(picture, header) for picture, header in zip(pictures, headers) if isinstance(header, Header)]
    if not good:
        raise DataError(f"{folder}: no picture can be read; {_bad_lines(bad, len(pictures))}")
    chosen = [picture.test for picture, _ in good]
    if not has_test:
        held_out = max(1, round(TEST_SHARE * len(good)))
        parts = split(torch.tensor([picture.label for picture, _ in good]), held_out, seed=0)
        chosen = [False] * len(good)
        for index in parts.held_out.tolist():
            chosen[index] = True
    rows = [(picture.path, picture.label, test) for (picture, _), test in zip(good, chosen)]
    rows.sort(key=lambda row: row[2])  # stable: the training part first
    shape = _shape([header for _, header in good], size)
    tell(progress, f"{folder.name}: {len(good)} pictures, decoded to {shape[0]} x {shape[1]} x {shape[2]} (C x H x W)")
    return {"shape": shape, "pictures": rows, "bad": bad}


def _headers(folder: Path, pictures: Sequence[_Picture], progress: Progress | None) -> list[Header | str]:
    pillow()  # where it is missing, say so once

    def read(picture: _Picture) -> Header | str:
        try:
            return read_header(folder / picture.path)
        except BadPictureError as error:
            return str(error)

    pace = paced(progress)
    headers = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for header in pool.map(read, pictures):
            headers.append(header)
            pace(f"looking at pictures: {len(headers)} of {len(pictures)}", len(headers) / len(pictures))
    return headers


def _shape(headers: Sequence[Header], size: int | None) -> tuple[int, int, int]:
    channels = 1 if all(header.grey for header in headers) else 3
    sizes = {(header.height, header.width) for header in headers}
    if size is not None:
        return channels, size, size
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_SIDE:
        return channels, *sizes.pop()
    side = min(LARGEST_SIDE, median_low(min(header.height, header.width) for header in headers))
    return channels, side, side


def _open(folder: Path, store: Path, progress: Progress | None) -> ImageData:
    index = json.loads((store / _INDEX).read_text())
    train, test = torch.tensor(index["train"]), torch.tensor(index["test"])
    images = map_images(store, len(train) + len(test), tuple(index["shape"]))
    if index["bad"]:
        tell(progress, f"{folder}: {_bad_lines(index['bad'], index['count'])}", logging.WARNING)
    return image_data(
        folder.resolve().name,
        (images[: len(train)], train),
        (images[len(train) :], test),
        tuple(index["class_names"]),
        f"folder {folder}, decoded into {store}",
        index["fingerprint"],
    )


def _bad_lines(bad: Sequence[Sequence[str]], count: int) -> str:
    lines = "".join(f"\n  - {path}: {reason}" for path, reason in bad[:_NAMED])
    more = f"\n  - and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} of {count} pictures cannot be read and are left out{lines}{more}"
