"""hf: data sets that lie on disk: parquet, save_to_disk, folders; nothing is fetched."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data import DataError, load_data

datasets = pytest.importorskip("datasets")
CLASSES = ["ant", "bee"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    return tmp_path / "cache"


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def make(count: int, seed: int, labels: object = None, **other: list) -> tuple[object, np.ndarray]:
    """A data set of `count` grey pictures 6 x 5, and their pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 5), dtype=np.uint8)
    columns = {"image": [{"bytes": png(each), "path": None} for each in pixels]}
    features = {"image": datasets.Image(), "label": labels or datasets.ClassLabel(names=CLASSES)}
    columns["label"] = [number % 2 for number in range(count)]
    if labels is not None:
        columns["label"] = [CLASSES[number] for number in columns["label"]]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features)), pixels


def test_parts_saved_to_disk(tmp_path: Path, cache: Path) -> None:
    (train, pixels), (test, test_pixels) = make(8, 0), make(4, 1)
    datasets.DatasetDict({"train": train, "test": test, "extra": test}).save_to_disk(str(tmp_path / "insects"))
    told: list[str] = []
    data = load_data("hf:insects", folder=tmp_path, progress=lambda line, done: told.append(line))
    assert data.name == "insects" and data.class_names == ("ant", "bee")
    assert np.array_equal(data.images[:, 0].numpy(), pixels)
    assert np.array_equal(data.test_images[:, 0].numpy(), test_pixels)
    assert data.labels.tolist() == [0, 1] * 4 and data.test_labels.tolist() == [0, 1] * 2
    assert any("its part extra is left aside" in line for line in told)
    assert data.store is not None and data.store.stat().st_size == 12 * 30
    assert load_data(f"hf:{tmp_path / 'insects'}").fingerprint == data.fingerprint
    assert len(list((cache / "hf").iterdir())) == 1  # not decoded again
    assert load_data("hf:insects", folder=tmp_path, size=3).image_shape == (1, 3, 3)


def test_a_parquet_file_without_a_test_part(tmp_path: Path) -> None:
    train, pixels = make(20, 0, labels=datasets.Value("string"))
    train.to_parquet(str(tmp_path / "all.parquet"))
    data = load_data(f"hf:{tmp_path / 'all.parquet'}")
    assert data.class_names == ("ant", "bee")
    assert len(data.images) == 16 and torch.bincount(data.test_labels).tolist() == [2, 2]
    whole = {each.tobytes() for each in pixels}
    assert {each.numpy().tobytes() for each in (*data.images, *data.test_images)} == whole


def test_a_folder_of_parquet_with_a_validation_part_and_a_hidden_test(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
        part, _ = make(6, seed)
        if name == "test":
            part = part.remove_columns("label").add_column("label", [-1] * 6)
        part = part.cast_column("label", datasets.Value("int64"))
        (tmp_path / "set").mkdir(exist_ok=True)
        part.to_parquet(str(tmp_path / "set" / f"{name}-00000-of-00001.parquet"))
    data = load_data(f"hf:{tmp_path / 'set'}")
    assert np.array_equal(data.test_images[:, 0].numpy(), make(6, 1)[1])
    assert data.class_names == ("0", "1")


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    train, _ = make(10, 0)
    rows = [{"image": {"bytes": row["image"]["bytes"], "path": None}, "label": row["label"]}
            for row in train.cast_column("image", datasets.Image(decode=False))]  # fmt: skip
    rows[3]["image"]["bytes"] = b"no picture"
    datasets.Dataset.from_list(rows, features=train.features).save_to_disk(str(tmp_path / "set"))
    told: list[str] = []
    data = load_data(f"hf:{tmp_path / 'set'}", progress=lambda line, done: told.append(line))
    assert len(data.images) + len(data.test_images) == 9
    assert any("train[3]" in line for line in told)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        load_data(f"hf:{tmp_path / 'nowhere'}")
    train, _ = make(4, 0)
    train.rename_column("label", "x").cast_column("x", datasets.Value("int64")).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="no telling which holds the labels: rename it to 'label'"):
        load_data(f"hf:{tmp_path / 'set'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        load_data(f"hf:{tmp_path / 'empty'}")


def test_parts_that_number_their_classes_otherwise_are_told_apart_by_name(tmp_path: Path) -> None:
    def numbered(count: int, names: tuple[str, ...]) -> object:
        part = make(count, 0)[0].remove_columns("label").add_column("label", [n % len(names) for n in range(count)])
        return part.cast_column("label", datasets.ClassLabel(names=list(names)))

    names = ("ant", "bee", "cow")
    train, test = numbered(9, names), numbered(4, names[1:])
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "set"))
    data = load_data(f"hf:{tmp_path / 'set'}")
    assert data.class_names == names and data.test_labels.tolist() == [1, 2, 1, 2]
    other = numbered(4, ("bee", "dog"))
    datasets.DatasetDict({"train": train, "test": other}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match="the training part has no classes dog, which the test part has"):
        load_data(f"hf:{tmp_path / 'other'}")


def test_several_labels_for_an_image_are_refused(tmp_path: Path) -> None:
    train, _ = make(4, 0)
    several = train.remove_columns("label").add_column("label", [[0, 1]] * 4)
    datasets.DatasetDict({"train": several, "test": several}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match="several labels for an image"):
        load_data(f"hf:{tmp_path / 'set'}")
