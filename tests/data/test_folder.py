"""Folders of pictures: real files, made here with Pillow."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data import DataError, ImageData, load_data, store
from attar.data.pictures import BadPictureError, read_header, read_picture

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fill(
    place: Path, count: int, size: tuple[int, int] = (10, 8), mode: str = "L", seed: int = 0
) -> dict[str, np.ndarray]:
    """`count` .png files in each class folder; gives the pixels (H, W[, 3]) by path."""
    draw = np.random.default_rng(seed)
    pixels = {}
    for name in CLASSES:
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shape = size if mode == "L" else (*size, 3)
            image = draw.integers(0, 256, shape, dtype=np.uint8)
            path = place / name / f"{number:03}.png"
            Image.fromarray(image).save(path)
            pixels[str(path)] = image
    return pixels


def test_train_and_test_folders(tmp_path: Path, cache: Path) -> None:
    top = tmp_path / "animals"
    train, test = fill(top / "train", 5), fill(top / "test", 2, seed=1)
    fill(top / "val", 1, seed=2)
    (top / "train" / "notes.txt").write_text("not a picture")
    (top / "train" / "bee" / "notes.txt").write_text("not a picture")
    (top / "train" / "aardvark").mkdir()
    told: list[str] = []
    data = load_data(f"folder:{top}", progress=lambda line, fraction: told.append(line))
    assert data.name == "animals"
    assert data.class_names == CLASSES
    assert np.array_equal(data.images[:, 0].numpy(), np.stack(list(train.values())))
    assert np.array_equal(data.test_images[:, 0].numpy(), np.stack(list(test.values())))
    assert data.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert any("val/ is left aside" in line for line in told)
    assert [line for line in told if "no pictures" in line] == [
        "animals: files that are no pictures attar reads are left out: 1 .txt",
        "animals: train/aardvark/ has no pictures and is left out; it is no class",
    ]

    began = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    again = load_data("folder:animals", tmp_path)
    assert torch.equal(again.images, data.images)
    assert again.fingerprint == data.fingerprint
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == began  # nothing was decoded again

    changed = top / "train" / "ant" / "000.png"
    Image.fromarray(255 - train[str(changed)]).save(changed)
    assert load_data(f"folder:{top}").fingerprint != data.fingerprint


def test_a_fixed_split_where_there_is_no_test_folder(tmp_path: Path) -> None:
    top = tmp_path / "flat"
    pixels = fill(top, 10, mode="RGB")
    data = load_data(f"folder:{top}")
    assert torch.bincount(data.labels).tolist() == [8, 8, 8]
    assert torch.bincount(data.test_labels).tolist() == [2, 2, 2]
    seen = {image.numpy().tobytes() for part in (data.images, data.test_images) for image in part}
    assert seen == {image.transpose(2, 0, 1).tobytes() for image in pixels.values()}
    os.rename(top, tmp_path / "moved")  # noqa: PTH104
    moved = load_data(f"folder:{tmp_path / 'moved'}")
    assert torch.equal(moved.test_images, data.test_images)
    assert moved.fingerprint == data.fingerprint


def test_sizes(tmp_path: Path) -> None:
    top = tmp_path / "mixed"
    fill(top, 3, size=(40, 30))
    fill(top / "more", 0)
    Image.new("L", (100, 50)).save(top / "ant" / "wide.png")
    assert load_data(f"folder:{top}").image_shape == (1, 30, 30)  # the median of the shorter sides
    assert load_data(f"folder:{top}", size=16).image_shape == (1, 16, 16)
    Image.new("RGB", (100, 50)).save(top / "ant" / "colour.png")
    assert load_data(f"folder:{top}", size=16).image_shape == (3, 16, 16)
    fill(tmp_path / "alike", 2, size=(30, 300))
    assert load_data(f"folder:{tmp_path / 'alike'}").image_shape == (1, 30, 30)
    fill(tmp_path / "large", 2, size=(230, 225))
    assert load_data(f"folder:{tmp_path / 'large'}").image_shape == (1, 224, 224)
    for bad in (f"folder:{top}", "digits"):
        with pytest.raises(DataError, match="size = 0"):
            load_data(bad, size=0)


def test_pictures_are_read_upright_and_whole(tmp_path: Path) -> None:
    left_to_right = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (10, 1))
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that a quarter turn clockwise puts it right
    Image.fromarray(left_to_right).save(path, exif=exif)
    upright = read_picture(path, (1, 20, 10))
    assert np.array_equal(upright[0], np.rot90(left_to_right, -1))
    deep = (left_to_right.astype(np.uint16) << 8) + 77
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_picture(tmp_path / "deep.png", (1, 10, 20))[0], left_to_right)
    assert np.array_equal(read_picture(tmp_path / "deep.png", (3, 10, 20))[2], left_to_right)
    middle = read_picture(tmp_path / "deep.png", (1, 10, 10))[0]  # cut, not squeezed
    assert np.array_equal(middle, left_to_right[:, 5:15])

    left_to_right = left_to_right.repeat(50, axis=0).repeat(50, axis=1)
    Image.fromarray(left_to_right).save(tmp_path / "large.jpg", exif=exif)
    small = read_picture(tmp_path / "large.jpg", (1, 20, 10))[0].astype(int)
    assert abs(small - upright[0]).max() <= 12  # scaled over the steps between the greys


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "F"])
def test_deep_greys(tmp_path: Path, kind: str) -> None:
    """16 bits and fractions are grey, and as bright as they were; what has another range is left out by name."""
    greys = np.arange(120, dtype=np.uint8).reshape(10, 12) * 2
    whole = greys.astype(np.int32) * 257
    deep = {"I;16": whole.astype(np.uint16), "I;16B": whole.astype(">u2"), "I": whole, "F": greys / np.float32(255)}[
        kind
    ]
    for name, times in (("ant", 1), ("bee", 1), ("ant", 300), ("bee", -1)):
        (tmp_path / "deep" / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            path = tmp_path / "deep" / name / f"{times}-{number}.tif"
            if times == 1 or kind in ("I", "F"):
                Image.fromarray(deep if times == 1 else deep * times).save(path)
    with Image.open(path.with_name("1-0.tif")) as picture:
        assert picture.mode == kind
    told: list[str] = []
    data = load_data(f"folder:{tmp_path / 'deep'}", progress=lambda line, fraction: told.append(line))
    assert data.image_shape == (1, 10, 12)
    assert all(np.array_equal(image[0], greys) for image in (*data.images, *data.test_images))
    if kind in ("I", "F"):
        assert "4 of 8 pictures cannot be read" in told[-1]
        assert f"ant/300-0.tif: its pixels are {deep.dtype} from 0" in told[-1]


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_eight_bits_in_a_file_of_more_are_not_taken_for_black(tmp_path: Path, kind: type) -> None:
    Image.fromarray(np.arange(225, dtype=kind).reshape(15, 15)).save(tmp_path / "dark.tif")
    with pytest.raises(BadPictureError, match="from 0 to 224, which is black by 16 bits; save it with 8 bits"):
        read_picture(tmp_path / "dark.tif", (1, 15, 15))
    Image.fromarray(np.zeros((15, 15), kind)).save(tmp_path / "black.tif")
    assert not read_picture(tmp_path / "black.tif", (1, 15, 15)).any()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path: Path, mode: str) -> None:
    opaque = np.zeros((10, 12), np.uint8)
    opaque[:, 6:] = 255
    opaque[0, 0] = 128
    if mode == "P":
        picture = Image.fromarray(opaque // 128, "P")  # two colours besides the transparent one, all of them black
        picture.putpalette([0] * 768)
        wanted = np.where(opaque // 128 == 0, 255, 0)
        picture.save(tmp_path / "shape.png", transparency=0)
    else:
        black = Image.new(mode[:-1], (12, 10))
        black.putalpha(Image.fromarray(opaque))
        wanted = 255 - opaque.astype(int)
        black.save(tmp_path / "shape.png")
    for channels in (1, 3):
        pixels = read_picture(tmp_path / "shape.png", (channels, 10, 12)).astype(int)
        assert all(np.abs(plane - wanted).max() <= 1 for plane in pixels)
    assert read_header(tmp_path / "shape.png").grey == (mode == "LA")


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) * 2 // 3]}[how])


def test_bad_pictures_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = tmp_path / "some"
    pixels = fill(top / "train", 4, size=(50, 50))
    fill(top / "test", 2, size=(50, 50))
    for name, how in (("ant/001.png", "empty"), ("bee/000.png", "text"), ("cat/003.png", "cut")):
        spoil(top / "train" / name, how)
        del pixels[str(top / "train" / name)]
    for _ in range(2):  # said again when the store is only opened
        caplog.clear()
        data = load_data(f"folder:{top}")
        assert np.array_equal(data.images[:, 0].numpy(), np.stack(list(pixels.values())))
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        (message,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert "3 of 18 pictures cannot be read" in message
        assert all(name in message for name in ("train/ant/001.png", "train/bee/000.png", "train/cat/003.png"))
    for path in (top / "train" / "bee").iterdir():
        spoil(path, "cut")
    with pytest.raises(DataError, match=r"no readable picture for class bee(.|\n)*bee/003\.png"):
        load_data(f"folder:{top}")
    for path in top.rglob("*.png"):
        spoil(path, "text")
    with pytest.raises(DataError, match="no picture can be read; 18 of 18"):
        load_data(f"folder:{top}")


def test_layouts_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_data(f"folder:{tmp_path / 'none'}")
    top = tmp_path / "top"
    top.mkdir()
    with pytest.raises(DataError, match="pictures of 0 classes; needed are two at least"):
        load_data(f"folder:{top}")
    (top / "ant").mkdir()
    Image.new("L", (4, 4)).save(top / "ant" / "1.png")
    with pytest.raises(DataError, match="pictures of 1 class; needed"):
        load_data(f"folder:{top}")
    fill(tmp_path / "other" / "train", 1)
    fill(tmp_path / "other" / "test", 1)
    (tmp_path / "other" / "train" / "bee").rename(tmp_path / "other" / "train" / "wasp")
    with pytest.raises(DataError, match="test/bee has no counterpart"):
        load_data(f"folder:{tmp_path / 'other'}")
    fill(tmp_path / "half" / "test", 1)
    with pytest.raises(DataError, match="has test/ but no train/"):
        load_data(f"folder:{tmp_path / 'half'}")


def test_a_test_folder_without_classes_is_no_test_part(tmp_path: Path) -> None:
    top = tmp_path / "competition"
    fill(top / "train", 5)
    fill(top / "val", 2, seed=1)
    (top / "test").mkdir()
    Image.new("L", (10, 8)).save(top / "test" / "1.png")
    told: list[str] = []
    data = load_data(f"folder:{top}", progress=lambda line, fraction: told.append(line))
    assert (len(data.images), len(data.test_images)) == (15, 6)
    assert "competition: test/ is left aside; it has no class folders with pictures" in told


def test_hidden_copies_are_no_pictures_and_train_may_be_a_class(tmp_path: Path) -> None:
    top = tmp_path / "vehicles"
    for name in ("car", "train"):
        (top / name / ".ipynb_checkpoints").mkdir(parents=True)
        for number in range(10):
            Image.new("L", (4, 4), number).save(top / name / f"{number}.png")
        Image.new("L", (4, 4)).save(top / name / ".ipynb_checkpoints" / "1-checkpoint.png")
    (top / "car" / "1.png").rename(top / "car" / os.fsdecode(b"caf\xe9.png"))  # no UTF-8
    data = load_data(f"folder:{top}")
    assert data.class_names == ("car", "train") and len(data.images) + len(data.test_images) == 20


def test_links_are_followed_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    top = tmp_path / "linked"
    fill(top, 5)
    name = next(path for path in sorted(top.iterdir()))
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "elsewhere" / "deep" / "far.png")
    (name / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "circle").symlink_to(top)
    (name / "a.heic").touch()
    (name / "b.HEIC").touch()
    (name / "notes").touch()
    (name / "Thumbs.db").touch()
    told: list[str] = []
    before = len(list(top.rglob("*.png")))
    data = load_data(f"folder:{top}", progress=lambda line, fraction: told.append(line))
    assert len(data.images) + len(data.test_images) > before
    assert "linked: files that are no pictures attar reads are left out: 2 .heic, 1 notes" in told


def test_parts_by_other_names_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path / "parts" / "train_set", 3)
    fill(tmp_path / "parts" / "Test-set", 1)
    with pytest.raises(DataError, match=r"has Test-set/, train_set/, which look like parts .* name them train/ and"):
        load_data(f"folder:{tmp_path / 'parts'}")
    told: list[str] = []
    for before, now in (("train_set", "known"), ("Test-set", "new")):
        (tmp_path / "parts" / before).rename(tmp_path / "parts" / now)
    load_data(f"folder:{tmp_path / 'parts'}", progress=lambda line, fraction: told.append(line))
    assert told[0] == (
        "parts: each class, known, new, has the folders ant, bee, cat; if these are the classes, name the outer ones"
        " train/ and test/"
    )
    (tmp_path / "parts" / "known").rename(tmp_path / "parts" / "train")
    load_data(f"folder:{tmp_path / 'parts'}", progress=lambda line, fraction: told.append(line))
    assert "parts: new/ is left aside; a test part is called test/ or val/" in told


def test_too_few_pictures_for_a_test_part(tmp_path: Path) -> None:
    fill(tmp_path / "few", 1)
    with pytest.raises(DataError, match="class ant has only 1 picture, as each other has"):
        load_data(f"folder:{tmp_path / 'few'}")
    Image.new("L", (8, 10)).save(tmp_path / "few" / "bee" / "more.png")
    data = load_data(f"folder:{tmp_path / 'few'}")
    assert data.labels.tolist() == [0, 1, 2] and data.test_labels.tolist() == [1]


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "top", 2)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match="set ATTAR_CACHE to a larger disk"):
        load_data(f"folder:{tmp_path / 'top'}")


LOAD = """
import sys, time
from attar.data import load_data, store
store._SAVE_SECONDS, store._PIECE = 0.0, 8
read = store.read_picture
def slowly(*arguments):
    time.sleep(0.02)
    return read(*arguments)
if sys.argv[2] == "slow":
    store.read_picture = slowly
print(load_data("folder:" + sys.argv[1]).fingerprint)
"""


def test_killed_and_resumed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle of decoding; what was saved is not decoded again, and the result is the same."""
    top = tmp_path / "many"
    fill(top, 70)
    spoil(top / "bee" / "010.png", "cut")
    process = subprocess.Popen([sys.executable, "-c", LOAD, str(top), "slow"], stderr=subprocess.PIPE)
    state: Path | None = None
    for _ in range(3000):
        state = next(cache.rglob("state.json"), None)
        if (state is not None and json.loads(state.read_text())["done"] >= 32) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    assert state is not None
    done = json.loads(state.read_text())["done"]
    assert 32 <= done < 210
    pixels = state.with_name("images.u8")
    with pixels.open("ab") as file:
        file.write(b"a piece that no saved state tells of")
    kept = pixels.read_bytes()[: (done - len(json.loads(state.read_text())["bad"])) * 80]
    decoded: list[Path] = []
    read = store.read_picture
    try:
        store.read_picture = lambda path, shape: (decoded.append(path), read(path, shape))[1]  # type: ignore[func-returns-value]
        resumed = load_data(f"folder:{top}")
    finally:
        store.read_picture = read
    assert len(decoded) == 210 - done
    assert pixels.read_bytes().startswith(kept)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "fresh"))
    fresh = load_data(f"folder:{top}")
    assert fresh.fingerprint == resumed.fingerprint
    assert len(fresh.images) + len(fresh.test_images) == 209


def test_a_store_cut_short_before_it_was_finished_is_begun_anew(tmp_path: Path, cache: Path) -> None:
    fill(tmp_path / "top", 20)
    spoil(tmp_path / "top" / "ant" / "003.png", "cut")
    whole = load_data(f"folder:{tmp_path / 'top'}").images.clone()
    next(cache.rglob("index.json")).unlink()  # as a process leaves it that was killed before the end
    pixels = next(cache.rglob("images.u8"))
    pixels.write_bytes(pixels.read_bytes()[: 10 * 80])
    assert torch.equal(load_data(f"folder:{tmp_path / 'top'}").images, whole)


def test_a_spoiled_store_is_refused(tmp_path: Path, cache: Path) -> None:
    fill(tmp_path / "top", 5)
    load_data(f"folder:{tmp_path / 'top'}")
    pixels = next(cache.rglob("images.u8"))
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"store .*images\.u8 is not 1200 bytes; remove its folder"):
        load_data(f"folder:{tmp_path / 'top'}")


def test_jpeg_files_of_a_real_data_set(tmp_path: Path, digits: ImageData) -> None:
    """What goes out as JPEG comes back nearly the same, each picture in its class."""
    for index in range(100):
        content = io.BytesIO()
        Image.fromarray(digits.images[index, 0].numpy()).resize((64, 64)).save(content, "JPEG", quality=95)
        place = tmp_path / "digits" / str(int(digits.labels[index]))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.JPG").write_bytes(content.getvalue())
    data = load_data(f"folder:{tmp_path / 'digits'}", size=8)
    assert data.image_shape == (1, 8, 8)
    assert len(data.images) == 80
    originals = digits.images[:100].float().flatten(1)
    nearest = torch.cdist(data.images.float().flatten(1), originals).argmin(dim=1)
    assert torch.equal(digits.labels[nearest], data.labels)
    assert len(set(nearest.tolist())) == 80
