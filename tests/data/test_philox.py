"""Philox against the published vectors, and against the same algorithm in Python integers."""

import random

import pytest
import torch

from attar.data.philox import Stream, integer, philox, sort_key, uniform, words

# Random123's known-answer file: counter, key, result of philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def in_integers(counter: list[int], key: list[int]) -> list[int]:
    (a, b, c, d), (k, l) = counter, key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q % 2**32, (p >> 32) ^ d ^ l, p % 2**32
        k, l = (k + 0x9E3779B9) % 2**32, (l + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize("counter, key, result", KNOWN)
def test_known_answers(counter: str, key: str, result: str) -> None:
    a, b, c, d = (torch.tensor([int(word, 16)]) for word in counter.split())
    k, l = (int(word, 16) for word in key.split())
    assert [f"{int(word):08x}" for word in philox((a, b, c, d), (k, l))] == result.split()


def test_same_as_python_integers() -> None:
    draw = random.Random(0)
    counters = [[draw.getrandbits(32) for _ in range(4)] for _ in range(300)]
    key = [draw.getrandbits(32), draw.getrandbits(32)]
    a, b, c, d = torch.tensor(counters).T
    assert torch.stack(philox((a, b, c, d), (key[0], key[1])), dim=1).tolist() == [
        in_integers(x, key) for x in counters
    ]


def test_words_put_everything_into_the_counter() -> None:
    samples = torch.tensor([0, 7, 2**32 - 1])
    seed = 0x0123456789ABCDEF
    got = torch.stack(words(seed, Stream.ERASE, 5, samples, 3), dim=1).tolist()
    assert got == [in_integers([sample, 5, 3, 4], [0x89ABCDEF, 0x01234567]) for sample in samples.tolist()]
    blocks = torch.tensor([0, 3])
    grid = torch.stack(words(seed, Stream.ERASE, 5, samples[:, None], blocks), dim=-1)
    assert grid.shape == (3, 2, 4)
    assert grid[:, 1].tolist() == got


def test_numbers_from_words() -> None:
    ends = torch.tensor([0, 255, 256, 2**32 - 1])
    assert uniform(ends).tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]
    assert integer(ends, 10).tolist() == [0, 0, 0, 9]
    assert integer(torch.tensor([2**31, 2**31]), torch.tensor([3, 1])).tolist() == [1, 0]
    assert sort_key(torch.tensor([2**32 - 1]), torch.tensor([2**32 - 1])).tolist() == [-1]
    many = torch.stack(words(1, Stream.PLACE, 0, torch.arange(100_000)))
    assert (uniform(many).mean(dim=1) - 0.5).abs().max() < 0.005  # five standard errors
    counts = torch.bincount(integer(many, 5).flatten(), minlength=5)
    assert (counts - 80_000).abs().max() < 1300


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "0"])
def test_refuses_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        words(seed, Stream.ORDER, 0, torch.arange(2))  # type: ignore[arg-type]


def test_refuses_epochs() -> None:
    with pytest.raises(ValueError, match="epoch"):
        words(0, Stream.ORDER, -1, torch.arange(2))
