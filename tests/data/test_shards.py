"""Images larger than memory: shards of the store, a window of them at a time."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from attar.data import Shards, Views, checked, load_data
from attar.pipeline import run
from attar.recipe import Augment, check_recipe

COUNT, SHAPE = 1000, (3, 16, 16)
ROW = 3 * 16 * 16
MEMORY = 100 * ROW  # a tenth: shards of 12 images, windows of 4


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[torch.Tensor, Path]:
    images = torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    file = tmp_path_factory.mktemp("store") / "images.u8"
    file.write_bytes(images.numpy().tobytes() + b"test images follow")
    return images, file


def both(stored: tuple[torch.Tensor, Path]) -> tuple[Views, Views]:
    images, file = stored
    labels = torch.arange(COUNT) % 10
    shards = Shards(file, (COUNT, *SHAPE), MEMORY, "cpu")
    return tuple(Views(each, labels, Augment(), 7, mean=(0.4,) * 3, std=(0.2,) * 3) for each in (images, shards))


def test_the_views_are_the_same_and_memory_is_kept(stored) -> None:
    whole, sharded = both(stored)
    samples = torch.arange(3, COUNT, 2)
    shards = sharded.images
    held = []
    for epoch in (0, 1):
        order = sharded.order(epoch, samples)
        assert torch.equal(order.sort().values, samples)
        for chosen in order.split(32):
            views, labels = sharded.batch(epoch, chosen)
            wanted, wanted_labels = whole.batch(epoch, chosen)
            assert torch.equal(views, wanted) and torch.equal(labels, wanted_labels)
            held.append(sum(future.result().nbytes for future in list(shards._held.values())))
    assert 0 < max(held) <= MEMORY


def test_samples_that_come_unplanned_are_read_one_by_one(stored) -> None:
    whole, sharded = both(stored)
    chosen = torch.tensor([999, 0, 500, 0])
    assert torch.equal(sharded.plain(chosen)[0], whole.plain(chosen)[0])
    order = sharded.order(0, torch.arange(COUNT))
    sharded.batch(0, order[:8])
    held = set(sharded.images._held)
    assert torch.equal(sharded.plain(chosen)[0], whole.plain(chosen)[0])
    assert set(sharded.images._held) == held


def test_the_order_is_a_function_of_seed_and_epoch_and_goes_through_the_file_in_runs(stored) -> None:
    _, one = both(stored)
    _, other = both(stored)
    everyone = torch.arange(COUNT)
    assert torch.equal(one.order(3, everyone), other.order(3, everyone.flip(0)))
    assert not torch.equal(one.order(3, everyone), one.order(4, everyone))
    order, rows, window = one.order(0, everyone), one.images.rows, one.images.window
    shards_in_turn = [set(part.tolist()) for part in (order // rows).split(rows * window)]
    assert max(map(len, shards_in_turn)) <= 2 * window  # the last shard is shorter: windows are a little off
    assert not torch.equal(order[: rows * window].sort().values, order[: rows * window])


def test_an_epoch_goes_on_in_its_middle(stored) -> None:
    whole, sharded = both(stored)
    late = sharded.order(2, torch.arange(COUNT))[600:700]
    assert torch.equal(sharded.batch(2, late)[0], whole.batch(2, late)[0])


def test_a_store_that_was_cut_short(stored, tmp_path) -> None:
    file = tmp_path / "short.u8"
    file.write_bytes(stored[1].read_bytes()[: 10 * ROW])
    shards = Shards(file, (COUNT, *SHAPE), MEMORY, "cpu")
    with pytest.raises(OSError, match="cut short"):
        shards.index_select(0, torch.tensor([50]))


def test_changed_images_are_not_read_from_the_store_of_the_old_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    for number in range(20):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (9, 9), os.urandom(81)).save(place / f"{number}.png")
    data = load_data(f"folder:{tmp_path / 'images'}")
    same = checked(data)
    assert data.store is not None and same.store == data.store and same.fingerprint == data.fingerprint
    assert checked(replace(data, images=data.images[:8], labels=data.labels[:8])).store == data.store
    for changed in (data.images.flip(0), torch.cat([data.images, data.test_images, data.images])):
        labels = torch.arange(len(changed)) % 2
        other = checked(replace(data, images=changed, labels=labels))
        assert other.store is None and other.fingerprint != data.fingerprint
    data.images[3, 0, 4, 4] ^= 1  # in place, in memory alone
    assert checked(data).store is None


def test_a_run_on_more_images_than_may_be_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    for number in range(80):
        place = tmp_path / "images" / ["dark", "light"][number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("L", (160, 160), os.urandom(160 * 160)).point(
            lambda value, dim=number % 2: value // 2 + 127 * dim
        ).save(place / f"{number}.png")
    values = {
        "name": "large",
        "data": {"source": f"folder:{tmp_path / 'images'}", "held_out": 8, "in_memory": 1},
        "student": {"model": "resnet20", "arguments": {"widths": [2, 2, 2]}},
        "distil": {"alpha": 0.0, "train": {"epochs": 1.0, "batch": 8, "learning_rate": 0.05}},
        "export": {"onnx": False, "pt2": False},
        "compute": {"threads": 1, "device": "cpu"},
    }
    data = load_data(values["data"]["source"])
    assert data.images.nbytes > 1 << 20
    used = []
    real = Shards._load
    monkeypatch.setattr(Shards, "_load", lambda self, shard: used.append(shard) or real(self, shard))
    facts = run(check_recipe(values), tmp_path / "run")
    assert len(used) > 4 and facts["test"]["student"]["n"] == 16
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["data"]["in_memory"] == 1
