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
    Raises ValueError if `held_out` does not leave each class a sample to train on.
    """
    check_seed(seed)
    count = len(labels)
    labels = labels.cpu().to(torch.int64)
    classes, sizes = torch.unique(labels, return_counts=True)
    most = count - len(classes)
    if not 0 <= held_out <= most:
        raise ValueError(
            f"cannot hold out {held_out} of {count} samples of {len(classes)} classes, each of which needs one to train"
            f" on: choose 0 .. {most}"
        )
    first, second, _, _ = words(seed, Stream.SPLIT, 0, torch.arange(count))
    by_key = torch.argsort(sort_key(first, second), stable=True)
    chosen = torch.zeros(count, dtype=torch.bool)
    for label, quota in zip(classes.tolist(), _quotas(sizes.tolist(), held_out)):
        chosen[by_key[labels[by_key] == label][:quota]] = True
    everything = torch.arange(count)
    return Split(train=everything[~chosen], held_out=everything[chosen], seed=seed)


def _quotas(sizes: list[int], total: int) -> list[int]:
    """How many of each class: floor of the exact share, the rest to the largest remainders (ties: lower class).

    A class that would lose its last sample is passed over.
    """
    whole = sum(sizes)
    quotas = [size * total // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * total % whole), i))
    while left := total - sum(quotas):
        for i in [each for each in by_remainder if quotas[each] + 1 < sizes[each]][:left]:
            quotas[i] += 1
    return quotas
