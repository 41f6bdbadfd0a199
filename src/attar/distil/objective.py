"""Objectives: what the one loop minimises. Teaching, distilling and fine-tuning differ in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from attar.distil.losses import Loss, distillation_loss


@dataclass(frozen=True)
class Batch:
    """A batch of views, named by (epoch, samples) under the run's seed."""

    images: torch.Tensor
    """float32 (batch, channels, height, width), normalised."""
    labels: torch.Tensor
    """int64 (batch,); of mixtures float32 (batch, classes), the shares of the two."""
    epoch: int
    """The views' epoch."""
    samples: torch.Tensor
    """int64 (batch,): ids of the images in the training set."""
    outputs: torch.Tensor | None = None
    """The teacher's logits, where they were asked for before (`outputs_ahead`)."""


class Objective(Protocol):
    """A loss for one batch; also hands out the logits, so that the loop can count hits."""

    def __call__(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]: ...


def from_labels(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy with the labels: teaching, and the control without a teacher."""
    logits = model(batch.images)
    return F.cross_entropy(logits.float(), batch.labels), logits


TeacherOutputs = Callable[[Batch], torch.Tensor]
"""Teacher's logits (batch, classes) for the very views of the batch, whether computed or remembered."""


@dataclass(frozen=True)
class FromTeacher:
    """Distillation with the teacher's outputs on the very same view."""

    teacher: TeacherOutputs
    temperature: float
    alpha: float
    loss: Loss = distillation_loss

    def __call__(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        target = self.teacher(batch) if batch.outputs is None else batch.outputs
        logits = model(batch.images)
        return self.loss(logits, target, batch.labels, self.temperature, self.alpha), logits


def outputs_ahead(objective: Objective, epoch: int, samples: torch.Tensor) -> torch.Tensor | None:
    """The teacher's logits that an objective will need for these views, where their names are enough to know them."""
    inner = getattr(objective, "objective", objective)  # a penalty stands around the objective proper
    ahead = getattr(getattr(inner, "teacher", None), "ahead", None)
    return None if ahead is None else ahead(epoch, samples)
