"""Pictures of any source, decoded once into a store that later runs map."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

import torch

from attar.data.cache import cache_folder, make_folder, one_at_a_time, paced, tell
from attar.data.images import DataError, ImageData, Progress, content_hash, image_data
from attar.data.pictures import BadPictureError, Header, Source, pillow, read_header
from attar.data.split import split
from attar.data.store import PIXELS, decode, map_images, write_json

TEST_SHARE = 0.2
LARGEST_SIDE = 224
_INDEX, _PLAN = "index.json", "plan.json"
_NAMED, _PIECE = 20, 256


@dataclass(frozen=True)
class Pictures:
    """Pictures with their classes, in a fixed order, not yet read."""

    title: str
    """What they are, in messages."""
    names: Sequence[str]
    """Of each picture, in messages."""
    labels: Sequence[int]
    test: Sequence[bool]
    """Whether a picture belongs to the test part; nowhere true: a fixed fifth of each class does."""
    class_names: Sequence[str]
    open_some: Callable[[Sequence[int]], Sequence[Source]]
    """The files of these indices, which ascend within each part."""


def decoded(
    pictures: Pictures, kind: str, name: str, key: str, size: int | None, progress: Progress | None
) -> ImageData:
    """The data set of these pictures, decoded into attar's cache unless that was done before.

    Pictures are made `size` x `size`; by default they stay as they are if all are alike and no side is over 224, else
    their median shorter side, at most 224, is taken. All grey pictures stay grey, else all become RGB.
    A killed decoding goes on where it was. Bad pictures are named, counted and left out.

    kind, name, key: the store's folder, and what tells it from others of that name.
    Raises DataError if there is no good picture for a class, or no room.
    """
    store = cache_folder() / kind / f"{name.replace('/', '-')}-{key}"
    if not (store / _INDEX).exists():
        make_folder(store)
        with one_at_a_time(store, progress):
            if not (store / _INDEX).exists():
                _build(pictures, size, store, progress)
    return _open(pictures.title, name, store, progress)


def _build(pictures: Pictures, size: int | None, store: Path, progress: Progress | None) -> None:
    """Makes the store, or the rest of it. The plan is kept, so that what goes on is what was begun."""
    if not (store / _PLAN).exists():
        write_json(store / _PLAN, _plan(pictures, size, progress))
    plan = json.loads((store / _PLAN).read_text())
    shape, order, tests = tuple(plan["shape"]), plan["order"], set(plan["test"])
    done = decode(len(order), lambda start, end: pictures.open_some(order[start:end]), shape, store, progress)
    bad = plan["bad"] + [[pictures.names[order[at]], reason] for at, reason in sorted(done.bad.items())]
    good = [index for at, index in enumerate(order) if at not in done.bad]
    train = [pictures.labels[index] for index in good if index not in tests]
    test = [pictures.labels[index] for index in good if index in tests]
    known = set(train)
    empty = [name for label, name in enumerate(pictures.class_names) if label not in known]
    count = len(pictures.labels)
    if empty or not test:
        what = f"class {', '.join(empty)}" if empty else "the test part"
        raise DataError(f"{pictures.title}: no readable picture for {what}; {_bad_lines(bad, count)}")
    parts = [
        (images, torch.tensor(labels))
        for images, labels in zip(done.images.split([len(train), len(test)]), (train, test))
    ]
    index = {
        "shape": shape,
        "train": train,
        "test": test,
        "class_names": list(pictures.class_names),
        "bad": bad,
        "count": count,
        "fingerprint": content_hash(parts[0], parts[1], tuple(pictures.class_names)),
    }
    write_json(store / _INDEX, index)


def _plan(pictures: Pictures, size: int | None, progress: Progress | None) -> dict[str, Any]:
    """Which pictures go where (training part first, each in the order given), and their common shape (C, H, W)."""
    headers = _headers(pictures, progress)
    bad = [[pictures.names[index], header] for index, header in enumerate(headers) if isinstance(header, str)]
    good = [index for index, header in enumerate(headers) if isinstance(header, Header)]
    if not good:
        raise DataError(f"{pictures.title}: no picture can be read; {_bad_lines(bad, len(headers))}")
    test = {index for index in good if pictures.test[index]}
    if not any(pictures.test):
        labels = [pictures.labels[index] for index in good]
        spare = len(good) - len(set(labels))  # each class keeps one to train on
        if spare == 0:
            raise DataError(
                f"{pictures.title}: class {pictures.class_names[labels[0]]} has only 1 picture, as each other has: that"
                " trains, and none is left to test with; add pictures, or a test part"
            )
        held_out = min(spare, max(1, round(TEST_SHARE * len(good))))
        parts = split(torch.tensor(labels), held_out, seed=0)
        test = {good[at] for at in parts.held_out.tolist()}
    shape = _shape([header for header in headers if isinstance(header, Header)], size)
    tell(
        progress, f"{pictures.title}: {len(good)} pictures, decoded to {shape[0]} x {shape[1]} x {shape[2]} (C x H x W)"
    )
    order = [index for index in good if index not in test] + sorted(test)
    return {"shape": shape, "order": order, "test": sorted(test), "bad": bad}


def _headers(pictures: Pictures, progress: Progress | None) -> list[Header | str]:
    pillow()  # where it is missing, say so once

    def read(source: Source) -> Header | str:
        try:
            return read_header(source)
        except BadPictureError as error:
            return str(error)

    pace = paced(progress)
    headers: list[Header | str] = []
    count = len(pictures.labels)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, count, _PIECE):
            headers += pool.map(read, pictures.open_some(range(start, min(start + _PIECE, count))))
            pace(f"looking at pictures: {len(headers)} of {count}", len(headers) / count)
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


def _open(title: str, name: str, store: Path, progress: Progress | None) -> ImageData:
    index = json.loads((store / _INDEX).read_text())
    train, test = torch.tensor(index["train"]), torch.tensor(index["test"])
    images = map_images(store, len(train) + len(test), tuple(index["shape"]))
    if index["bad"]:
        tell(progress, f"{title}: {_bad_lines(index['bad'], index['count'])}", logging.WARNING)
    data = image_data(
        name,
        (images[: len(train)], train),
        (images[len(train) :], test),
        tuple(index["class_names"]),
        title,
        index["fingerprint"],
    )
    return replace(data, store=store / PIXELS)


def _bad_lines(bad: Sequence[Sequence[str]], count: int) -> str:
    lines = "".join(f"\n  - {path}: {reason}" for path, reason in bad[:_NAMED])
    more = f"\n  - and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} of {count} pictures cannot be read and are left out{lines}{more}"
