"""Data sets by name, and the checks that every source goes through."""

import builtins

import pytest
import torch

from attar.data import DataError, ImageData, load_data
from attar.data.images import image_data


def test_digits(digits: ImageData) -> None:
    assert digits.images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.images.max() == 255
    assert digits.image_shape == (1, 8, 8)
    assert digits.classes == 10
    assert torch.bincount(digits.test_labels).min() >= 34  # of 174 to 183 in each class
    again = load_data("digits")
    assert torch.equal(again.images, digits.images)
    assert again.fingerprint == digits.fingerprint


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'attar\[digits\]'"):
        load_data("digits")


@pytest.mark.parametrize("name, close", [("fashion_mnst", "fashion-mnist"), ("Digit", "digits")])
def test_closest_name(name: str, close: str) -> None:
    with pytest.raises(DataError, match=f"did you mean '{close}'"):
        load_data(name)


def test_fingerprint_is_of_the_content() -> None:
    def make(images: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...] = ("a", "b")) -> str:
        return image_data("x", (images, labels), (images[:2], labels[:2]), names, "here").fingerprint

    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 1, 0])
    seen = {
        make(images, labels),
        make(images.flip(0), labels),
        make(images, labels.flip(0)[[0, 1, 2, 2]]),
        make(images, labels, ("a", "c")),
        make(images.reshape(4, 3, 4, 1), labels),
    }
    assert len(seen) == 5
    assert make(images.transpose(2, 3).contiguous().transpose(2, 3), labels) in seen


def test_parts_that_do_not_fit() -> None:
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 1])
    good = (images, labels)
    for bad, complaint in (
        ((images.float(), labels), "uint8"),
        ((images[:0], labels[:0]), "none of these 0"),
        ((images, labels[:3]), "one for each of the 4 images"),
        ((images, labels.int()), "int64"),
        ((images, labels + 1), "labels go from 1 to 3, but there are 3 classes"),
        ((images, labels - 1), "labels go from -1"),
    ):
        with pytest.raises(DataError, match=f"test.*{complaint}"):
            image_data("x", good, bad, ("a", "b", "c"), "here")
    with pytest.raises(DataError, match="1x2x2, test images 1x2x1"):
        image_data("x", good, (images[..., :1], labels), ("a", "b", "c"), "here")
