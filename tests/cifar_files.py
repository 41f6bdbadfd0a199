"""Files in the exact format of CIFAR's binary versions, small, and the published set that stands for them."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from attar.data import cifar
from attar.data.published import Published, PublishedFile

Layout = dict[str, tuple[int, ...]]  # the file's name -> shape of its records
CIFAR10: Layout = {f"data_batch_{i}.bin": (40, 3073) for i in range(1, 6)} | {"test_batch.bin": (30, 3073)}
CIFAR100: Layout = {"train.bin": (300, 3074), "test.bin": (120, 3074)}


def make_records(layout: Layout) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    files = {name: draw.integers(0, 256, shape, dtype=np.uint8) for name, shape in layout.items()}
    for name, records in files.items():
        records[:, 0] = np.arange(len(records)) % (20 if name in CIFAR100 else 10)
        if name in CIFAR100:
            records[:, 1] = np.arange(len(records)) % 100
    return files


def made_set(name: str) -> tuple[Published, dict[str, np.ndarray]]:
    """The published set of made files, with their checksums in place of the real ones, and the records."""
    layout = CIFAR10 if name == "cifar10" else CIFAR100
    records = make_records(layout)
    files = tuple(
        PublishedFile(name, part.nbytes, hashlib.sha256(part.tobytes()).hexdigest()) for name, part in records.items()
    )
    real: Published = getattr(cifar, name.upper())
    assert [file.name for file in real.files] == list(layout)
    return replace(real, files=files, web="http://127.0.0.1:9/"), records


def pack(path: Path, members: list[tuple[str, bytes]], link: str | None = None) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link is not None and name.endswith("train.bin"):
                info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
            archive.addfile(info, io.BytesIO(content))


def members(records: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    return [
        ("top/batches.meta.txt", b"airplane\n"),
        *((f"top/{name}", part.tobytes()) for name, part in records.items()),
    ]
