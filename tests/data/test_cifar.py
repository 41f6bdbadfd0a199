"""CIFAR in the binary versions' exact format, on files made here (with their checksums in place of the real ones)."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attar.data import DataError, cifar, load_data
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


def pack(path: Path, members: list[tuple[str, bytes]], link: str | None = None) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if link is not None and name.endswith("train.bin"):
                info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["cifar10", "cifar100"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Published, dict[str, np.ndarray]]:
    """The published set of made files, which load_data believes in, and the records."""
    name, layout = request.param, CIFAR10 if request.param == "cifar10" else CIFAR100
    records = make_records(layout)
    files = tuple(
        PublishedFile(name, part.nbytes, hashlib.sha256(part.tobytes()).hexdigest()) for name, part in records.items()
    )
    real: Published = getattr(cifar, name.upper())
    wanted = replace(real, files=files, web="http://127.0.0.1:9/")
    monkeypatch.setattr(cifar, name.upper(), wanted)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    assert [file.name for file in real.files] == list(layout)
    return wanted, records


def members(records: dict[str, np.ndarray]) -> list[tuple[str, bytes]]:
    return [
        ("top/batches.meta.txt", b"airplane\n"),
        *((f"top/{name}", part.tobytes()) for name, part in records.items()),
    ]


def test_archive_and_unpacked_files(made: tuple[Published, dict[str, np.ndarray]], tmp_path: Path) -> None:
    wanted, records = made
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked" / wanted.inner_folders[-1]
    packed.mkdir()
    unpacked.mkdir(parents=True)
    assert wanted.archive is not None
    pack(packed / wanted.archive, members(records))
    for name, part in records.items():
        (unpacked / name).write_bytes(part.tobytes())
    data, again = load_data(wanted.name, packed), load_data(wanted.name, unpacked.parent)
    assert data.fingerprint == again.fingerprint
    *train, test = records.values()
    before = test.shape[1] - 3072
    everything = np.concatenate(train)
    assert data.labels.tolist() == everything[:, before - 1].tolist()
    assert data.test_labels.tolist() == test[:, before - 1].tolist()
    assert data.image_shape == (3, 32, 32)
    assert data.classes == int(wanted.name.removeprefix("cifar"))
    # red, green, blue planes, row by row
    for image, c, y, x in ((0, 0, 0, 0), (7, 1, 2, 3), (len(everything) - 1, 2, 31, 31)):
        assert data.images[image, c, y, x] == everything[image, before + 1024 * c + 32 * y + x]
    assert torch.equal(data.test_images.flatten(1), torch.from_numpy(test[:, before:].copy()))
    assert sorted(path.name for path in packed.iterdir()) == [wanted.archive]  # nothing was unpacked


def test_bad_archives(made: tuple[Published, dict[str, np.ndarray]], tmp_path: Path) -> None:
    wanted, records = made
    assert wanted.archive is not None
    path = tmp_path / wanted.archive
    pack(path, members(records))
    whole = path.read_bytes()
    last = list(records)[-1]

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{wanted.archive} is truncated"):
        load_data(wanted.name, tmp_path)

    pack(path, members(records)[:-1])
    with pytest.raises(DataError, match=f"another archive: {last} missing"):
        load_data(wanted.name, tmp_path)

    spoiled = records | {last: records[last] ^ np.uint8(1)}
    pack(path, members(spoiled))
    with pytest.raises(DataError, match=f"{last} is corrupt"):
        load_data(wanted.name, tmp_path)

    first = next(iter(records))
    pack(path, members(records | {first: records[last], last: records[first]}))
    with pytest.raises(DataError, match=f"{first} is swapped: it holds the content of {last}"):
        load_data(wanted.name, tmp_path)

    pack(path, [("top/filler", bytes(10 * sum(part.nbytes for part in records.values()))), *members(records)])
    with pytest.raises(DataError, match="more than twice as long"):
        load_data(wanted.name, tmp_path)

    path.write_bytes(b"not an archive at all")
    with pytest.raises(DataError, match=f"{wanted.archive} is truncated or corrupt"):
        load_data(wanted.name, tmp_path)


def test_hostile_members_write_nothing(made: tuple[Published, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Paths that climb out, and links, have no effect: only content is read, and only of plain files."""
    wanted, records = made
    assert wanted.archive is not None
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    pack(folder / wanted.archive, [(f"../../{name}", part.tobytes()) for name, part in records.items()])
    assert load_data(wanted.name, folder).classes > 1
    assert sorted(tmp_path.rglob("*")) == [*before, folder / wanted.archive]
    if wanted.name == "cifar100":
        pack(folder / wanted.archive, members(records), link="/etc/passwd")
        with pytest.raises(DataError, match=r"train\.bin missing"):
            load_data(wanted.name, folder)


def test_nowhere(made: tuple[Published, dict[str, np.ndarray]]) -> None:
    wanted, _ = made
    with pytest.raises(DataError, match=f"found nowhere(.|\n)*Put {wanted.archive} from") as caught:
        load_data(wanted.name)
    assert "no package" in str(caught.value)
