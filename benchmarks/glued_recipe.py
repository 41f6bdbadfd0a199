"""The recipe as people write it today, glued together from libraries: the peer of benchmarks/whole_recipe.py.

Per-sample transforms of Pillow images in a DataLoader with worker processes, everything in float32 and torch's default
layout, the teacher's forward pass at every step, Torch-Pruning's pruner in 30 steps with fine-tuning and an evaluation
after each, and a pickled model at the end. Written anew after the usual shape of such scripts (knowledge-distillation
examples, Torch-Pruning's README); nothing is made slower than it is usually written.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning
from pictures import Pictures, plain, training
from torch import nn
from torch.utils.data import DataLoader

from attar.models import build

BATCH, TEMPERATURE, ALPHA = 128, 4.0, 0.9


def compress(
    data: Path, teacher_weights: Path, epochs: int, steps: int, batches: int, final: int, workers: int, out: Path
) -> int:
    """Distil for `epochs`, prune in `steps` with `batches` of fine-tuning each, fine-tune for `final` epochs.

    Returns the number of images trained on.
    """
    arrays = np.load(data)
    mean, std = arrays["x_train"].mean() / 255, arrays["x_train"].std() / 255
    count = len(arrays["x_train"]) - len(arrays["x_test"])  # attar holds as many out
    train = Pictures(arrays["x_train"][:count], arrays["y_train"][:count], training(mean, std))
    test = Pictures(arrays["x_test"], arrays["y_test"], plain(mean, std))
    # workers that stay, and are forked as they are in a plain script on Linux, whatever this process was started by
    workers_stay: dict[str, Any] = {"num_workers": workers, "persistent_workers": True}
    if sys.platform == "linux":
        workers_stay["multiprocessing_context"] = "fork"
    train_loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, **workers_stay)
    test_loader = DataLoader(test, 500, **workers_stay)

    teacher = build("resnet50", stem="stride2", in_channels=1, classes=10).eval()
    teacher.load_state_dict(torch.load(teacher_weights))
    student = build("resnet20", widths=(16, 32, 64), in_channels=1, classes=10)

    seen = 0
    seen += train_student(student, teacher, train_loader, test_loader, epochs * len(train_loader), 0.1)
    pruner = torch_pruning.pruner.BasePruner(
        student,
        torch.zeros(1, 1, 28, 28),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.39,  # ends in widths 9, 19, 39
        iterative_steps=steps,
        ignored_layers=[student.fc],
    )
    for _ in range(steps):
        pruner.step()
        seen += train_student(student, teacher, train_loader, test_loader, batches, 0.05)
    seen += train_student(student, teacher, train_loader, test_loader, final * len(train_loader), 0.05)
    assert sum(p.numel() for p in student.parameters()) <= 100_000
    torch.save(student, out)
    return seen


def train_student(
    student: nn.Module, teacher: nn.Module, train: DataLoader, test: DataLoader, steps: int, rate: float
) -> int:
    """So many steps of distillation, an evaluation after every epoch and at the end; returns images seen."""
    optimiser = torch.optim.SGD(student.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    seen = 0
    while seen < steps * BATCH:
        student.train()
        for images, labels in itertools.islice(train, steps - seen // BATCH):
            with torch.no_grad():
                target = teacher(images)
            logits = student(images)
            soft = F.kl_div(
                F.log_softmax(logits / TEMPERATURE, 1), F.softmax(target / TEMPERATURE, 1), reduction="batchmean"
            )
            loss = ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * F.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            seen += len(images)
        evaluate(student, test)
    return seen


@torch.no_grad()
def evaluate(student: nn.Module, test: DataLoader) -> float:
    student.eval()
    hits = sum(int((student(images).argmax(1) == labels).sum()) for images, labels in test)
    return hits / len(test.dataset)  # type: ignore[arg-type]
