"""What the benchmarks of training share: synthetic images, views of them, and epochs of attar's loop to be timed."""

from __future__ import annotations

from typing import Any

import torch
from measuring import Steps

from attar.data import Views
from attar.distil import Objective
from attar.models import build
from attar.recipe import Augment, Compute, Training
from attar.train import Machine, TrainState, fit

EMA = 0.999
STUDENT = (16, 32, 64)


def machine(threads: int) -> Machine:
    """attar's own choice for this CPU."""
    return Machine.choose(Compute(device="cpu", threads=threads))


def synthetic(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random grey images uint8 (count, 1, 28, 28) and labels int64 (count,) of ten classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, 10, (count,), generator=generator)


def views_of(images: torch.Tensor, labels: torch.Tensor) -> Views:
    """Views as the recipes have them: crop, mirror, erase."""
    augment = Augment(crop_padding=2, flip=0.5, erase=0.5)
    return Views(images, labels, augment, seed=0, mean=(0.286,), std=(0.353,))


def epochs_of(
    machine: Machine, views: Views, objective: Objective, batch: int, view_pool: int = 0, **settings: Any
) -> Steps:
    """Each call is an epoch of attar's loop over all images, of a student that goes on learning."""
    state = TrainState(student(), machine)
    training = Training(epochs=1, batch=batch, learning_rate=0.01, ema=EMA, **settings)
    samples = torch.arange(len(views))
    return lambda: fit(state, objective, views, samples, training, view_pool=view_pool)


def student(widths: tuple[int, ...] = STUDENT) -> torch.nn.Module:
    torch.manual_seed(0)
    return build("resnet20", widths=widths, in_channels=1, classes=10)


def by_operation(step: Steps, title: str) -> str:
    """Milliseconds of a step by operation, the fastest of five calls for each; the twelve that take longest."""
    step()
    found: dict[str, list[float]] = {}
    for _ in range(5):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
            step()
        for event in watched.key_averages():
            found.setdefault(event.key, []).append(event.self_cpu_time_total / 1e3)
    ordered = sorted(((min(times), name) for name, times in found.items()), reverse=True)
    total = sum(time for time, _ in ordered)
    lines = [f"{time:8.1f} ms {time / total:6.1%}  {name}" for time, name in ordered[:12]]
    return "\n".join([f"{title}: {total:.0f} ms", *lines])
