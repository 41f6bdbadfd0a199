"""Distilling from stored outputs of a teacher, over plain training on labels; beside it, asking the teacher each step.

    python benchmarks/distillation_overhead.py            # a minute and a half

Epochs of attar's loop in one process: with labels; with the outputs of a ResNet-50 from a store filled before (read from
disk by memory map, checked, decoded); with the ResNet-50 itself looking at every batch. All see the same views.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measuring import Figure, Goal, Result, in_turn, main, ratio
from training import STUDENT, epochs_of, machine, synthetic, views_of

from attar.data import Views
from attar.distil import Batch, FromTeacher, Pool, ViewOutputs, coding_for, from_labels
from attar.models import build
from attar.train import Machine

GOAL = 1.05
POOL = 2
TEMPERATURE, ALPHA = 4.0, 0.9


class OnlineTeacher:
    """A teacher that looks at every view: frozen, in eval mode, under inference mode."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    def __call__(self, batch: Batch) -> torch.Tensor:
        with torch.inference_mode():
            logits = self.model(batch.images).float()
        return logits.clone()  # a tensor made under inference mode could not take part in the student's backward pass


@contextmanager
def filled(views: Views, online: OnlineTeacher, here: Machine) -> Iterator[ViewOutputs]:
    """The store with all outputs of the pool's epochs, opened anew after it was filled."""

    def evaluate(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), here.autocast():
            return online.model(images.to(memory_format=here.memory_format)).float()

    def unwanted(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the store is not warm")

    with tempfile.TemporaryDirectory() as folder:
        pool = Pool({"benchmark": "distillation overhead"}, Path(folder), 10**9)
        samples, coding = torch.arange(len(views)), coding_for(10)
        outputs = ViewOutputs(views, samples, evaluate, coding, TEMPERATURE, pool)
        for epoch in range(POOL):
            outputs.fill(epoch)
        yield ViewOutputs(views, samples, unwanted, coding, TEMPERATURE, pool)


def measure(quick: bool, threads: int) -> Result:
    batch, steps, rounds = (16, 2, 2) if quick else (128, 8, 7)
    here = machine(threads)
    views = views_of(*synthetic(batch * steps))
    arguments = {"widths": (8, 8, 8, 8)} if quick else {}
    online = OnlineTeacher(here.place(build("resnet50", stem="stride2", in_channels=1, classes=10, **arguments)))
    with filled(views, online, here) as outputs:
        goals = {
            "labels": from_labels,
            "stored outputs": FromTeacher(outputs, TEMPERATURE, ALPHA),
            "teacher at every step": FromTeacher(online, TEMPERATURE, ALPHA),
        }
        cases = {name: epochs_of(here, views, goal, batch, view_pool=POOL) for name, goal in goals.items()}
        times = in_turn(cases, rounds)
    settings = {
        "student": f"resnet20 {STUDENT}",
        "teacher": "resnet50, stem of stride 2",
        "batch": batch,
        "precision": here.precision,
        "epochs of views in the pool": POOL,
    }
    result = Result("distillation_overhead", "Overhead of distillation", settings, threads)
    result.figures = [Figure.of(name, "ms a step", [1e3 * t / steps for t in v]) for name, v in times.items()]
    result.figures.append(ratio("teacher at every step / labels", times["teacher at every step"], times["labels"]))
    result.goals = [Goal("stored outputs / labels", ratio("", times["stored outputs"], times["labels"]), GOAL, False)]
    return result


if __name__ == "__main__":
    main(measure, __doc__)
