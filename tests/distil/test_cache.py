"""The view cache: the same numbers with it and without it, whatever batches, kills, damage and neighbours there are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from attar.data import Views, load_data, pixel_statistics, split
from attar.distil import Batch, FromTeacher, Pool, TeacherError, ViewOutputs, coding_for, kept_pools
from attar.distil.store import BLOCK, blocks
from attar.models import build
from attar.recipe import Augment, Training
from attar.train import Machine, TrainState, fit

AUGMENT = Augment(crop_padding=1, flip=0.0, erase=0.25)
GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    parts = split(data.labels, 200, 0)
    return data, parts, pixel_statistics(data.images, parts.train)


def views_of(digits, seed=0, order_seed=None):
    data, _, (mean, std) = digits
    return Views(data.images, data.labels, AUGMENT, seed, "cpu", mean, std, order_seed)


class Teacher:
    """A real network whose outputs depend on the batch in the last bits, and that counts what it is asked."""

    def __init__(self, machine: Machine) -> None:
        torch.manual_seed(1)
        model = build("resnet20", widths=(5, 7, 9))
        with torch.no_grad():
            model(torch.randn(64, 1, 8, 8))  # running statistics that are not the initial ones
        self.model, self.machine, self.asked = machine.place(model).eval(), machine, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        with torch.inference_mode(), self.machine.autocast():
            return self.model(images.to(memory_format=self.machine.memory_format)).float()


@pytest.fixture(params=["fp32", "bf16"])
def teacher(request):
    return Teacher(Machine("cpu", request.param, True, torch.get_num_threads()))


def pool(folder: Path, limit: int = GIGABYTE, write: bool = True) -> Pool:
    return Pool({"samples": {"count": 1237}, "row_bytes": 20}, folder, limit, write)


def outputs(digits, teacher, kept=None, views=None, tell=lambda line: None):
    views = views or views_of(digits)
    return ViewOutputs(views, digits[1].train, teacher, coding_for(10), 4.0, kept, tell)


def ask(source: ViewOutputs, epoch: int, samples: torch.Tensor, batch: int) -> torch.Tensor:
    """All outputs of an epoch, asked in batches of this size: (n, 10), by sample id."""
    found = torch.full((len(source.views), 10), torch.nan)
    for chosen in samples.split(batch):
        found[chosen] = source(Batch(*source.views.batch(epoch, chosen), epoch, chosen))
    return found[samples.sort().values]


def test_an_output_does_not_depend_on_the_batch(digits, teacher):
    samples = digits[1].train
    whole = ask(outputs(digits, teacher), 3, samples, len(samples))
    assert torch.isfinite(whole).all()
    scattered = samples[torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))]
    for batch in (1, 37, 300):
        assert torch.equal(ask(outputs(digits, teacher), 3, scattered, batch), whole)


def test_outputs_are_the_teachers_for_the_very_view(digits, teacher):
    samples = digits[1].train[:50]
    source = outputs(digits, teacher)
    for epoch in (0, 5):
        images, labels = source.views.batch(epoch, samples)
        found = source(Batch(images, labels, epoch, samples))
        torch.testing.assert_close(found, teacher(images), atol=2e-3, rtol=2e-3)
    assert not torch.equal(source(Batch(images, labels, 0, samples)), found)


def test_the_teacher_looks_at_each_view_once(digits, teacher, tmp_path):
    samples = digits[1].train
    first = outputs(digits, teacher, pool(tmp_path))
    computed = [ask(first, epoch, samples, 64) for epoch in (0, 1, 2, 0, 1, 2)]
    assert teacher.asked == 3 * blocks(len(samples))
    again = outputs(digits, teacher, pool(tmp_path))
    assert all(torch.equal(ask(again, epoch, samples, 100), computed[epoch]) for epoch in range(3))
    other_seed = outputs(digits, teacher, pool(tmp_path), views_of(digits, 0, order_seed=9))
    assert all(torch.equal(ask(other_seed, epoch, samples, 100), computed[epoch]) for epoch in range(3))
    assert teacher.asked == 3 * blocks(len(samples))


def test_the_first_epoch_fills_block_by_block(digits, teacher, tmp_path):
    source = outputs(digits, teacher, pool(tmp_path))
    order = source.views.order(0, digits[1].train)
    for step, chosen in enumerate(order.split(64)):
        source(Batch(*source.views.batch(0, chosen), 0, chosen))
        assert teacher.asked == (64 * step + len(chosen) - 1) // BLOCK + 1


STUDENT = (4, 6, 8)


def train(digits, teacher, kept, *, view_pool=2, epochs=4.0, stop=None, order_seed=None):
    """A real distillation; returns weights. `stop` leaves it after so many steps."""
    machine = teacher.machine
    torch.manual_seed(0)
    state = TrainState(build("resnet20", widths=STUDENT), machine)
    views = views_of(digits, 0, order_seed)
    goal = FromTeacher(outputs(digits, teacher, kept, views), 4.0, 0.9)
    training = Training(epochs=epochs, batch=96, learning_rate=0.05, ema=0.9)

    def on_step(progress):
        if progress.step == stop:
            raise KeyboardInterrupt

    try:
        fit(state, goal, views, digits[1].train, training, view_pool=view_pool, on_step=on_step)
    except KeyboardInterrupt:
        return None
    return {**state.model.state_dict(), **{f"ema/{name}": tensor for name, tensor in state.ema.items()}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_ends_in_the_same_bits_with_and_without_the_cache(digits, teacher, tmp_path):
    without = train(digits, teacher, None)
    asked = teacher.asked
    assert same(train(digits, teacher, pool(tmp_path)), without)
    assert teacher.asked - asked == 2 * blocks(1237)
    asked = teacher.asked
    assert same(train(digits, teacher, pool(tmp_path)), without)  # all outputs are there
    assert teacher.asked == asked
    train(digits, teacher, pool(tmp_path / "stopped"), stop=9)
    assert same(train(digits, teacher, pool(tmp_path / "stopped")), without)  # some are there
    assert not same(train(digits, teacher, None, order_seed=1), without)


def test_fresh_views_are_the_same_with_and_without_the_cache(digits, tmp_path):
    teacher = Teacher(Machine("cpu", "bf16", True, torch.get_num_threads()))
    without = train(digits, teacher, None, view_pool=0, epochs=2.5)
    assert same(train(digits, teacher, pool(tmp_path), view_pool=0, epochs=2.5), without)
    assert kept_pools(tmp_path)[0].epochs == (0, 1, 2)


def test_without_leave_to_write_only_what_is_there_is_used(digits, teacher, tmp_path):
    samples = digits[1].train
    reference = ask(outputs(digits, teacher), 0, samples, 64)
    assert torch.equal(ask(outputs(digits, teacher, pool(tmp_path, write=False)), 0, samples, 64), reference)
    assert not list(tmp_path.iterdir())
    outputs(digits, teacher, pool(tmp_path)).fill(0)
    asked = teacher.asked
    assert torch.equal(ask(outputs(digits, teacher, pool(tmp_path, write=False)), 0, samples, 64), reference)
    assert teacher.asked == asked


def test_damage_is_noticed_and_mended(digits, teacher, tmp_path):
    samples, told = digits[1].train, []
    reference = ask(outputs(digits, teacher, pool(tmp_path)), 1, samples, 64)
    asked, file = teacher.asked, pool(tmp_path).path / "epoch-00001.rows"
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)
    for _ in range(2):
        assert torch.equal(ask(outputs(digits, teacher, pool(tmp_path), tell=told.append), 1, samples, 64), reference)
    assert teacher.asked == asked + 1
    assert len(told) == 1
    assert "1 of 5 blocks were damaged" in told[0]


@pytest.mark.parametrize("trouble", ["no room", "no folder"])
def test_a_cache_that_cannot_be_used_costs_time_and_nothing_else(digits, teacher, tmp_path, trouble):
    samples, told = digits[1].train, []
    reference = ask(outputs(digits, teacher), 0, samples, 64)
    folder = tmp_path / "views"
    if trouble == "no folder":
        folder.write_text("a file where the folder should be")
    kept = pool(folder, limit=1000 if trouble == "no room" else GIGABYTE)
    source = outputs(digits, teacher, kept, tell=told.append)
    assert torch.equal(ask(source, 0, samples, 64), reference)
    ask(source, 1, samples, 64)
    assert told
    assert "are not stored" in told[0]
    assert len(told) == len(set(told))
    assert not source.stored(0)


def test_a_cleared_pool_does_not_disturb_a_run(digits, teacher, tmp_path):
    samples = digits[1].train
    source = outputs(digits, teacher, pool(tmp_path))
    reference = ask(source, 0, samples, 64)
    for file in pool(tmp_path).path.iterdir():
        file.unlink()
    pool(tmp_path).path.rmdir()
    assert torch.equal(ask(source, 0, samples, 64), reference)
    assert torch.equal(ask(outputs(digits, teacher, pool(tmp_path)), 0, samples, 64), reference)


def test_a_store_of_what_other_code_said_is_refused(digits, teacher, tmp_path):
    outputs(digits, teacher, pool(tmp_path)).check_stored()  # nothing is there
    assert teacher.asked == 0
    outputs(digits, teacher, pool(tmp_path)).ahead(1, digits[1].train[:1])
    outputs(digits, teacher, pool(tmp_path)).check_stored()
    assert teacher.asked == 2
    nearly = outputs(digits, lambda images: teacher(images) + 1e-2 * torch.rand(len(images), 10), pool(tmp_path))
    nearly.check_stored()
    with pytest.raises(TeacherError, match=rf"not what the teacher says now .*clear {pool(tmp_path).key}`"):
        outputs(digits, lambda images: teacher(images).flip(1), pool(tmp_path)).check_stored()
    assert outputs(digits, teacher, pool(tmp_path))._epoch(1).rows.have.sum() == 1


def test_a_teacher_that_gives_no_numbers_is_named(digits, tmp_path):
    def broken(images):
        return torch.full((len(images), 10), torch.nan)

    with pytest.raises(TeacherError, match=r"not finite numbers \(samples \[\d+"):
        outputs(digits, broken, pool(tmp_path)).fill(0)
    assert np.count_nonzero(outputs(digits, broken, pool(tmp_path))._epoch(0).rows.have) == 0


def test_any_fact_makes_another_key(tmp_path):
    facts = {"teacher": {"weights": "a"}, "view_seed": 0, "mean": [0.1], "precision": "fp32"}
    keys = {Pool({**facts, name: "other"}, tmp_path, GIGABYTE).key for name in facts}
    assert len(keys | {Pool(facts, tmp_path, GIGABYTE).key}) == 5
    assert Pool(dict(reversed(facts.items())), tmp_path, GIGABYTE).key == Pool(facts, tmp_path, GIGABYTE).key
