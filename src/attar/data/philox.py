"""Philox4x32-10, a counter-based random generator: the word at a counter is a pure function of (key, counter).

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The rounds are written in int64
tensor arithmetic, which is exact and the same on every device, whatever the versions of torch and numpy; words
become numbers by the functions below and by nothing else.
"""

from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


class Stream(IntEnum):
    """What the words are for: the fourth word of the counter, so that no two uses share random numbers."""

    ORDER = 1
    SPLIT = 2
    PLACE = 3
    ERASE = 4
    FILL = 5
    MIX = 6


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random words (int64 tensors holding 0 .. 2^32-1) for each counter of four words, under a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = c0 * _MULTIPLIERS[0]  # wraps modulo 2^64: both halves of the product survive
        p1 = c2 * _MULTIPLIERS[1]
        c0 = ((p1 >> 32) & _MASK).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = ((p0 >> 32) & _MASK).bitwise_xor_(c3).bitwise_xor_(k1)
        c1 = p1.bitwise_and_(_MASK)
        c3 = p0.bitwise_and_(_MASK)
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, stream: Stream, epoch: int | Tensor, samples: Tensor, block: int | Tensor = 0) -> Words:
    """Four random words for each sample id: tensors of the shape of `samples` broadcast with `block`, on its device.

    The counter is (sample, epoch, block, stream), the key the 64 bits of the seed.
    Raises ValueError if the seed is not in 0 .. 2^64-1 or the epoch not in 0 .. 2^32-1.
    """
    check_seed(seed)
    if isinstance(epoch, int) and not 0 <= epoch <= _MASK:
        raise ValueError(f"epoch must be in 0 .. 2^32-1, not {epoch}")
    samples = samples.to(torch.int64)
    if isinstance(block, Tensor):
        samples, block = torch.broadcast_tensors(samples, block.to(torch.int64))
    counter = (
        samples,
        torch.zeros_like(samples).add_(epoch),
        torch.zeros_like(samples).add_(block),
        torch.full_like(samples, int(stream)),
    )
    return philox(counter, (seed & _MASK, seed >> 32))


def check_seed(seed: int) -> None:
    """Raises ValueError unless the seed is an integer in 0 .. 2^64-1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must be an integer in 0 .. 2^64-1, not {seed!r}")


def uniform(word: Tensor) -> Tensor:
    """Words -> float64 in [0, 1), multiples of 2^-24 (so that float32 holds them exactly too)."""
    return (word >> 8).to(torch.float64) * 2.0**-24


def integer(word: Tensor, count: int | Tensor) -> Tensor:
    """Words -> int64 in 0 .. count-1, the high half of a product; `count` below 2^31. The bias is under count/2^32."""
    return (word * count) >> 32


def sort_key(first: Tensor, second: Tensor) -> Tensor:
    """Two words -> one int64 with 64 random bits, to sort by."""
    return (first << 32) | second
