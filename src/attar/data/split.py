"""The split of the training images into those that train and those held out for every choice."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from attar.data.philox import Stream, check_seed, sort_key, words


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into the training images, int64, ascending. `digest` names the split in a run's records."""

    train: Tensor
    held_out: Tensor
    seed: int

    @property
    def digest(self) -> str:
        """sha256 (hex) over the held-out and the training indices."""
        content = hashlib.sha256()
        for indices in (self.held_out, self.train):
            content.update(len(indices).to_bytes(8, "little") + indices.numpy().astype("<i8").tobytes())
        return content.hexdigest()


def split(labels: Tensor, held_out: int, seed: int) -> Split:
    """Holds out `held_out` samples, each class in proportion (largest remainders), chosen by Philox keys of the seed.

    The same on every machine and for every version of torch. `held_out=0` trains on everything.
    Raises ValueError if `held_out` is not in 0 .. len(labels)-1.
    """
    check_seed(seed)
    count = len(labels)
    if not 0 <= held_out < count:
        raise ValueError(f"cannot hold out {held_out} of {count} samples: choose 0 .. {count - 1}")
    labels = labels.cpu().to(torch.int64)
    first, second, _, _ = words(seed, Stream.SPLIT, 0, torch.arange(count))
    by_key = torch.argsort(sort_key(first, second), stable=True)
    chosen = torch.zeros(count, dtype=torch.bool)
    classes, sizes = torch.unique(labels, return_counts=True)
    for label, quota in zip(classes.tolist(), _quotas(sizes.tolist(), held_out)):
        chosen[by_key[labels[by_key] == label][:quota]] = True
    everything = torch.arange(count)
    return Split(train=everything[~chosen], held_out=everything[chosen], seed=seed)


def _quotas(sizes: list[int], total: int) -> list[int]:
    """How many of each class: floor of the exact share, the rest to the largest remainders (ties: lower class)."""
    whole = sum(sizes)
    quotas = [size * total // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * total % whole), i))
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas
