"""Codings: what is lost when logits are kept in few bytes."""

import pytest
import torch

from attar.distil import coding_for, kl_divergence
from attar.distil.coding import DENSE_CLASSES, Dense, Largest, Levels, coding_named


def logits(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Like a trained classifier's: one or a few classes stand out of a normal crowd."""
    generator = torch.Generator().manual_seed(seed)
    crowd = 2 * torch.randn(n, classes, generator=generator)
    stand_out = torch.randint(classes, (n, 3), generator=generator)
    return crowd.scatter_add(1, stand_out, 6 + 3 * torch.randn(n, 3, generator=generator))


def lost(coding, teacher, temperature):
    """KL(softmax(teacher / T) || softmax(what comes back / T)), nats a view."""
    back = coding.decode(coding.encode(teacher), temperature)
    return (kl_divergence(back.double(), teacher.double(), temperature) / temperature**2).item()


@pytest.mark.parametrize("classes", [2, 10, DENSE_CLASSES])
def test_few_classes_are_kept_as_float16(classes):
    teacher, coding = logits(100, classes), coding_for(classes)
    rows = coding.encode(teacher)
    assert rows.shape == (100, 2 * classes)
    assert torch.equal(coding.decode(rows, 4.0), teacher.half().float())


def test_what_float16_cannot_hold_stays_finite():
    coding = Dense(3)
    assert coding.decode(coding.encode(torch.tensor([[1e9, -1e9, 0.0]])), 1.0).tolist() == [[65504.0, -65504.0, 0.0]]


@pytest.mark.parametrize("classes", [DENSE_CLASSES + 1, 1000, 70_000])
def test_many_classes_keep_the_largest_and_the_remainder(classes):
    teacher, coding = logits(20, classes), coding_for(classes)
    rows = coding.encode(teacher)
    assert rows.shape == (20, coding.row_bytes)
    assert coding.row_bytes <= 200
    for temperature in (1.0, 2.0, 4.0):
        back = coding.decode(rows, temperature)
        top = teacher.topk(32).indices
        assert torch.equal(back.gather(1, top), teacher.gather(1, top).half().float())
        kept, true = (torch.softmax(each / temperature, 1).gather(1, top).sum(1) for each in (back, teacher))
        torch.testing.assert_close(kept, true, atol=0.02, rtol=0)


def test_the_remainder_is_exact_at_temperature_one_and_for_the_mean():
    teacher, coding = logits(50, 1000), coding_for(1000)
    rows = coding.encode(teacher)
    top = teacher.topk(32).indices
    rest = 1 - torch.softmax(teacher, 1).gather(1, top).sum(1)
    back = 1 - torch.softmax(coding.decode(rows, 1.0), 1).gather(1, top).sum(1)
    torch.testing.assert_close(back, rest, atol=1e-3, rtol=5e-3)
    hot = coding.decode(rows, 1e6)
    torch.testing.assert_close(hot.mean(1), teacher.mean(1), atol=5e-3, rtol=0)


def test_a_byte_a_class_loses_next_to_nothing():
    teacher, coding = logits(2000, 10), Levels(10)
    assert coding.encode(teacher).shape == (2000, 12)
    for temperature in (1.0, 4.0):
        assert lost(coding, teacher, temperature) < 2e-5
    same = coding.decode(coding.encode(teacher), 1.0).argmax(1) == teacher.argmax(1)
    assert same.double().mean() > 0.99


def test_equal_logits_survive_levels():
    coding = Levels(4)
    assert coding.decode(coding.encode(torch.full((2, 4), 3.5)), 1.0).tolist() == [[0.0] * 4] * 2


def test_codings_are_found_by_name():
    for coding in (Dense(10), Levels(10), Largest(1000)):
        found = coding_named(coding.name, coding.classes)
        assert (type(found), found.row_bytes) == (type(coding), coding.row_bytes)
    with pytest.raises(ValueError, match="float4"):
        coding_named("float4", 10)
