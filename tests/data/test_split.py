"""The split: stratified, fixed for ever, and recorded."""

import pytest
import torch

from attar.data import ImageData, split


def test_fashion_mnist(fashion: ImageData) -> None:
    parts = split(fashion.labels, 5000, seed=0)
    assert torch.bincount(fashion.labels[parts.held_out]).tolist() == [500] * 10
    assert torch.equal(torch.cat([parts.train, parts.held_out]).sort().values, torch.arange(60_000))
    # Results are comparable only as long as this never changes.
    assert parts.digest == "67f16d976ffab663a021f6e38cfb5e2454b3a5d491c4fbd104b8d4a20b4fa659"
    other = split(fashion.labels, 5000, seed=1)
    assert other.digest != parts.digest
    both = torch.isin(parts.held_out, other.held_out).sum()
    assert 320 < both < 520  # 417 expected of independent splits


def test_largest_remainders() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [5])
    held_out = split(labels, 7, seed=3).held_out
    # shares 3.5, 2.1, 1.33, 0.07: floors 3, 2, 1, 0 and one more for class 0
    assert torch.bincount(labels[held_out], minlength=6).tolist() == [4, 2, 1, 0, 0, 0]


def test_the_split_of_uneven_classes_never_changes() -> None:
    parts = split(torch.arange(1000) ** 2 % 7, 123, seed=5)
    assert parts.digest == "239d52bcf851b56035c671831fd3d0d9382702184fe479f533cd1bae7628ff9d"


def test_each_class_keeps_one_to_train_on() -> None:
    labels = torch.tensor([0] + [1] * 40 + [2] * 40)
    for held_out in range(79):
        parts = split(labels, held_out, seed=0)
        assert len(parts.held_out) == held_out
        assert torch.bincount(labels[parts.train], minlength=3).min() >= 1


def test_ends() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    everything = split(labels, 0, seed=0)
    assert everything.train.tolist() == [0, 1, 2, 3]
    assert len(everything.held_out) == 0
    assert sorted(labels[split(labels, 2, seed=0).train].tolist()) == [0, 1]
    for bad in (-1, 3, 4, 5):
        with pytest.raises(ValueError, match=f"cannot hold out {bad} of 4 samples of 2 classes.*choose 0 .. 2"):
            split(labels, bad, seed=0)
