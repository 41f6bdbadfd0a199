"""Augmented views in images/s: attar's batched ones against per-sample transforms and kornia's batched ones.

    python benchmarks/augmentation.py            # half a minute; needs pip install 'attar[bench]'

Each case makes training batches of 256 grey images of 28x28, cropped (padding 2), mirrored, normalised and erased with
probability 1/2, for one epoch, from uint8 images in memory. The per-sample case is torchvision's transforms on Pillow
images in a DataLoader without workers: one process, as the others. attar's figure includes drawing the order and the
places of an epoch that is new each time.
"""

from __future__ import annotations

import itertools

import torch
from measuring import Figure, Goal, Result, Steps, in_turn, main, ratio
from pictures import PADDING, SIZE, Pictures, training
from torch import Tensor

from attar.data import Views
from attar.recipe import Augment

BATCH = 256
MEAN, STD = 0.286, 0.353
GOALS = {"per-sample transforms": 20.0, "kornia": 3.0}


def attar_epoch(images: Tensor, labels: Tensor) -> Steps:
    augment = Augment(crop_padding=PADDING, flip=0.5, erase=0.5)
    views = Views(images, labels, augment, seed=0, mean=(MEAN,), std=(STD,))
    samples, epochs = torch.arange(len(images)), itertools.count()

    def epoch() -> None:
        number = next(epochs)
        for chosen in views.order(number, samples).split(BATCH):
            views.batch(number, chosen)

    return epoch


def per_sample_epoch(images: Tensor, labels: Tensor) -> Steps:
    pictures = Pictures(images.squeeze(1).numpy(), labels.numpy(), training(MEAN, STD))
    loader = torch.utils.data.DataLoader(pictures, BATCH, shuffle=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def kornia_epoch(images: Tensor, labels: Tensor) -> Steps:
    from kornia import augmentation

    augment = augmentation.AugmentationSequential(
        augmentation.RandomCrop((SIZE, SIZE), padding=PADDING, cropping_mode="slice"),
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.Normalize(mean=torch.tensor([MEAN]), std=torch.tensor([STD])),
        augmentation.RandomErasing(p=0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3)),
        data_keys=["input"],
    )

    def epoch() -> None:
        for chosen in torch.randperm(len(images)).split(BATCH):
            augment(images[chosen].float() / 255), labels[chosen]

    return epoch


def measure(quick: bool, threads: int) -> Result:
    torch.set_num_threads(threads)
    count, rounds = (2 * BATCH, 2) if quick else (8 * BATCH, 9)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    makers = {"attar": attar_epoch, "per-sample transforms": per_sample_epoch, "kornia": kornia_epoch}
    times = in_turn({name: make(images, labels) for name, make in makers.items()}, rounds)
    settings = {"batch": BATCH, "images": f"1x{SIZE}x{SIZE}", "images a round": count}
    result = Result("augmentation", "Augmentation", settings, threads)
    result.figures = [Figure.of(name, "images/s", [count / t for t in values]) for name, values in times.items()]
    result.goals = [
        Goal(f"attar / {peer}", ratio("", times[peer], times["attar"]), goal, at_least=True)
        for peer, goal in GOALS.items()
    ]
    return result


if __name__ == "__main__":
    main(measure, __doc__)
