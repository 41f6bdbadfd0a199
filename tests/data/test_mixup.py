"""Mixed views: pure as all views, shares from the Beta distribution, partners from the training images only."""

import numpy as np
import pytest
import torch
from scipy import stats

from attar.data import DataError, ImageData, Mixup, Shards, Views, split
from attar.recipe import Augment, RecipeError, check_recipe

STRENGTHS = (0.2, 0.5, 1.0, 2.5)


def pair(data: ImageData, strength: float = 1.0, **changes: object) -> tuple[Views, Views, torch.Tensor]:
    """Mixed views, the plain ones of the same seed, and the samples that are trained on."""
    samples = split(data.labels, 200, 0).train
    augment = Augment(crop_padding=1, **changes)  # type: ignore[arg-type]
    mixed = Views(
        data.images, data.labels, augment, 3, "cpu", (0.3,), (0.4,), mixup=Mixup(strength, samples, data.classes)
    )
    return mixed, Views(data.images, data.labels, augment, 3, "cpu", (0.3,), (0.4,)), samples


@pytest.mark.parametrize("fill", ["mean", "random", "black"])
def test_a_mixture_is_that_of_two_views(digits: ImageData, fill: str) -> None:
    mixed, plain, samples = pair(digits, erase_fill=fill)
    some = samples[torch.randperm(len(samples))[:100]]
    assert mixed.mixup is not None
    partner, share = mixed.mixup.draw(3, 5, some).long().unbind(1)
    images, labels = mixed.batch(5, some)
    own, others = plain.batch(5, some)[0].double(), plain.batch(5, partner)[0].double()
    weight = (share.double() / 256).view(-1, 1, 1, 1)
    torch.testing.assert_close(images.double(), weight * own + (1 - weight) * others, rtol=0, atol=1e-6)
    wanted = torch.zeros(len(some), digits.classes)
    for row, (sample, other, part) in enumerate(zip(some.tolist(), partner.tolist(), share.tolist())):
        wanted[row, digits.labels[sample]] += part / 256
        wanted[row, digits.labels[other]] += 1 - part / 256
    assert torch.equal(labels, wanted)


def test_whatever_the_batch(digits: ImageData) -> None:
    mixed, _, samples = pair(digits)
    whole, labels = mixed.batch(2, samples)
    parts = [mixed.batch(2, part) for part in samples.flip(0).split(7)]
    assert torch.equal(torch.cat([images for images, _ in parts]).flip(0), whole)
    assert torch.equal(torch.cat([some for _, some in parts]).flip(0), labels)
    assert not torch.equal(mixed.batch(3, samples)[0], whole)


def test_held_out_images_are_nobodys_partners(digits: ImageData) -> None:
    mixed, _, samples = pair(digits)
    assert mixed.mixup is not None
    drawn = torch.cat([mixed.mixup.draw(3, epoch, samples)[:, 0].long() for epoch in range(30)])
    assert torch.isin(drawn, samples).all()
    counts = torch.bincount(drawn, minlength=len(digits.images))[samples].double()
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("strength", STRENGTHS)
def test_shares_follow_beta(strength: float) -> None:
    """Against scipy's Beta, folded at one half and rounded to 1/256."""
    ids = torch.arange(200_000)
    share = Mixup(strength, ids, 10).draw(1, 0, ids)[:, 1]
    assert int(share.min()) >= 128 and int(share.max()) <= 256
    edges = np.concatenate([[0.5], (np.arange(128, 256) + 0.5) / 256, [1.0]])
    wanted = 2 * np.diff(stats.beta(strength, strength).cdf(edges)) * len(ids)
    found = np.bincount(share.numpy() - 128, minlength=129)
    assert stats.chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 1e-4


def test_views_that_are_not_mixed_are_those_they_were(digits: ImageData) -> None:
    """The draws of mixup are of a stream of their own."""
    mixed, plain, samples = pair(digits, strength=1e-9)  # all shares are whole
    assert torch.equal(mixed.batch(0, samples)[0], plain.batch(0, samples)[0])


def test_images_on_disk_are_refused(tmp_path, digits: ImageData) -> None:
    file = tmp_path / "images"
    file.write_bytes(digits.images.numpy().tobytes())
    shards = Shards(file, digits.images.shape, 1 << 20, "cpu")
    with pytest.raises(DataError, match="fit into memory"):
        Views(shards, digits.labels, Augment(), 0, mixup=Mixup(1.0, torch.arange(5), 10))


def test_labels_alone_are_not_mixed() -> None:
    recipe = {
        "name": "a",
        "data": {"source": "digits"},
        "student": {"model": "resnet20"},
        "distil": {"alpha": 0, "mixup": 0.5, "train": {"epochs": 1}},
    }
    with pytest.raises(RecipeError, match=r"distil\.mixup = 0\.5 is for learning from a teacher"):
        check_recipe(recipe)
