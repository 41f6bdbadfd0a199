"""Arrays of the user's: .npz files and Python data sets."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data import DataError, from_dataset, load_data

Arrays = dict[str, Any]


def arrays(shape: tuple[int, ...] = (9, 7), medmnist: bool = False) -> Arrays:
    draw = np.random.default_rng(0)
    made = {
        "x_train": draw.integers(0, 256, (12, *shape), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": draw.integers(0, 256, (5, *shape), dtype=np.uint8),
        "y_test": np.arange(5) % 3,
    }
    if not medmnist:
        return made
    renamed = dict(zip(("train_images", "train_labels", "test_images", "test_labels"), made.values()))
    renamed["train_labels"] = renamed["train_labels"][:, None].astype(np.uint8)
    renamed["test_labels"] = renamed["test_labels"][:, None].astype(np.uint8)
    return renamed | {"val_images": made["x_test"], "val_labels": renamed["test_labels"]}


def saved(path: Path, made: Arrays) -> str:
    np.savez_compressed(path, **made)
    return f"npz:{path}"


def test_npz_layouts(tmp_path: Path) -> None:
    made = arrays()
    grey = load_data(saved(tmp_path / "grey.npz", made))
    assert grey.name == "grey"
    assert grey.image_shape == (1, 9, 7)
    assert np.array_equal(grey.images[:, 0].numpy(), made["x_train"])
    assert grey.test_labels.tolist() == [0, 1, 2, 0, 1]
    assert grey.class_names == ("0", "1", "2")
    told: list[str] = []
    np.savez(tmp_path / "med.npz", **arrays(medmnist=True))
    medmnist = load_data("npz:med.npz", tmp_path, lambda line, fraction: told.append(line))
    assert medmnist.fingerprint == grey.fingerprint
    assert told == ["med.npz: its 5 validation images are left aside"]

    made = arrays((9, 7, 3))
    colour = load_data(saved(tmp_path / "colour.npz", made | {"class_names": np.array(["a", "b", "c"])}))
    assert colour.class_names == ("a", "b", "c")
    assert colour.image_shape == (3, 9, 7)
    assert np.array_equal(colour.images[4, 2].numpy(), made["x_train"][4, :, :, 2])
    planes = {name: part.transpose(0, 3, 1, 2) if part.ndim == 4 else part for name, part in made.items()}
    channels_first = load_data(saved(tmp_path / "planes.npz", planes))
    assert torch.equal(channels_first.images, colour.images)


def test_npz_numbers(tmp_path: Path) -> None:
    made = arrays()
    expected = load_data(saved(tmp_path / "a.npz", made)).fingerprint
    fractions = made | {"x_train": made["x_train"] / np.float32(255), "y_train": made["y_train"].astype(np.float64)}
    whole = made | {"x_train": made["x_train"].astype(np.int32)}
    floats = made | {name: made[name].astype(np.float64) for name in ("x_train", "x_test")}
    for other in (fractions, whole, floats):
        assert load_data(saved(tmp_path / "b.npz", other)).fingerprint == expected


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"x_train": np.zeros((12, 9, 7)) - 0.5}, "x_train are float64 from -0.5 to -0.5.*normalises"),
        ({"x_train": np.full((12, 9, 7), 1.5)}, "x_train are float64 from 1.5 to 1.5"),
        ({"x_train": np.full((12, 9, 7), 256.0)}, "x_train are float64 from 256.0"),
        ({"x_train": np.full((12, 9, 7), np.nan)}, "x_train: 12 of the 12 images hold NaN, the first of them number 0"),
        ({"x_train": np.full((12, 9, 7), 256)}, "x_train are int64 from 256"),
        ({"x_train": np.full((12, 9, 7), "a")}, "x_train must be numbers"),
        ({"x_train": np.zeros((12, 5, 9, 7), np.uint8)}, r"x_train must be images.*\(12, 5, 9, 7\)"),
        ({"x_train": np.zeros((12, 63), np.uint8)}, "x_train must be images"),
        ({"x_train": np.zeros((11, 9, 7), np.uint8)}, "one for each of the"),
        ({"x_test": np.zeros((5, 9, 8), np.uint8)}, "test images 1x9x8"),
        ({"x_test": np.zeros((0, 9, 7), np.uint8), "y_test": np.zeros(0, np.int64)}, "none of these 0"),
        ({"y_train": np.zeros((12, 4), np.int64)}, "y_train.*several labels"),
        ({"y_train": np.arange(12) + 0.5}, "y_train must be whole"),
        ({"y_train": np.arange(12) - 1}, "labels go from -1"),
        ({"y_train": np.arange(12) * 1000}, "no class numbers"),
        ({"y_test": np.arange(5)}, "no training image has the test labels 3, 4"),
        ({"class_names": np.array(["a", "b", "a"])}, "two classes are called 'a'"),
        ({"class_names": np.array(["a", "b"])}, "labels go from 0 to 2, but there are 2 classes"),
        ({"y_train": np.array([{}] * 12, dtype=object)}, "Python objects"),
    ],
)
def test_npz_refused(tmp_path: Path, change: Arrays, complaint: str) -> None:
    name = saved(tmp_path / "bad.npz", arrays() | change)
    with pytest.raises(DataError, match=complaint) as caught:
        load_data(name)
    assert "bad" in str(caught.value)


def test_labels_counted_from_one_are_told(tmp_path: Path) -> None:
    made, told = arrays(), []
    made["y_train"] += 1
    made["y_test"] += 1
    load_data(saved(tmp_path / "one.npz", made), progress=lambda line, fraction: told.append(line))
    items = [(image, label) for image, label in zip(made["x_train"], made["y_train"])]
    from_dataset(items, items, name="mine", progress=lambda line, fraction: told.append(line))
    assert told == [
        "one.npz: no training image is of class 0; labels count from 0",
        "mine: no training image is of class 0; labels count from 0",
    ]


def test_npz_files_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*none\.npz"):
        load_data(f"npz:{tmp_path / 'none.npz'}")
    path = tmp_path / "x.npz"
    name = saved(path, {"images": np.zeros(3), "y_train": np.zeros(3)})
    with pytest.raises(DataError, match="has the arrays images, y_train; needed are x_train"):
        load_data(name)
    saved(path, arrays())
    content = path.read_bytes()
    for bad in (content[:-100], content[:300] + b"x" + content[301:], b"", b"plain text"):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=str(path)):
            load_data(name)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"is no \.npz"):
        load_data(f"npz:{tmp_path / 'one.npy'}")


def test_python_data_sets() -> None:
    made = arrays((9, 7, 3))
    pictures = [(Image.fromarray(image), int(label)) for image, label in zip(made["x_train"], made["y_train"])]
    tensors = [
        (torch.from_numpy(image).permute(2, 0, 1) / 255, torch.tensor(label))
        for image, label in zip(made["x_test"], made["y_test"])
    ]
    data = from_dataset(pictures, tensors, class_names=["a", "b", "c"], name="mine")
    assert data.name == "mine"
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), made["x_train"])
    assert np.array_equal(data.test_images.permute(0, 2, 3, 1).numpy(), made["x_test"])
    assert data.labels.tolist() == made["y_train"].tolist()
    whole = [((image * 255).round().bfloat16(), label) for image, label in tensors]  # which has them all up to 256
    assert torch.equal(from_dataset(whole, whole, class_names="abc").images, data.test_images)
    assert from_dataset(pictures, pictures).class_names == ("0", "1", "2")

    class Named(list):  # type: ignore[type-arg]
        classes = ("x", "y", "z")

    assert from_dataset(Named(pictures), pictures).class_names == ("x", "y", "z")
    small = pictures[0][0].resize((5, 5))
    for bad, complaint in (
        ([], "test data set is empty"),
        ([*pictures, (small, 0)], r"test item 12 is \(3, 5, 5\).*resize"),
        ([pictures[0][0]], r"test item 0 must be \(image, label\)"),
        ([(tensors[0][0] - 0.5, 0)], "test item 0 are float32 from -0.5"),
        ([(small, "cat")], "test label 0 must be whole"),
        ([pictures[0], (pictures[1][0], [0, 1, 0])], "test item 1 has 3 labels"),
        ([(pictures[0][0], [])], "test item 0 has 0 labels"),
    ):
        with pytest.raises(DataError, match=complaint):
            from_dataset(pictures, bad)


def test_pictures_of_python_data_sets_that_are_no_plain_numbers() -> None:
    """A palette's indices are no colours, and bits are no greys."""
    colour = Image.fromarray(arrays((9, 7, 3))["x_train"][0]).quantize(16)
    bits = Image.fromarray(arrays()["x_train"][0]).convert("1")
    for picture, plain in ((colour, colour.convert("RGB")), (bits, bits.convert("L"))):
        data = from_dataset([(picture, 0), (picture, 1)], [(plain, 1)])
        assert torch.equal(data.images[1], data.test_images[0])
        assert data.image_shape[0] == len(plain.getbands())
