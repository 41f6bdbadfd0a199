"""CIFAR in the binary versions' exact format, on files made here (with their checksums in place of the real ones)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_files import made_set, members, pack

from attar.data import DataError, cifar, load_data
from attar.data.published import Published


@pytest.fixture(params=["cifar10", "cifar100"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Published, dict[str, np.ndarray]]:
    """The published set of made files, which load_data believes in, and the records."""
    wanted, records = made_set(request.param)
    monkeypatch.setattr(cifar, request.param.upper(), wanted)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return wanted, records


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
