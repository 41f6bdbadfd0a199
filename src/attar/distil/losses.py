"""Distillation losses: pure functions of logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def kl_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 x KL(softmax(teacher / T) || softmax(student / T)), summed over classes, mean over the batch.

    The factor T^2 keeps the gradient's size independent of T (Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2).
    The mean is over images only: `reduction="mean"`, over images x classes, would all but switch distillation off.

    Args:
        student, teacher: logits (batch, classes).
        temperature: T > 0.
    """
    student_log = F.log_softmax(student.float() / temperature, dim=1)
    teacher_log = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2


def distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, alpha: float
) -> torch.Tensor:
    """alpha x T^2 x KL + (1 - alpha) x cross-entropy (Hinton et al. 2015).

    Args:
        student, teacher: logits (batch, classes).
        labels: int64 (batch,).
        temperature: softens both distributions.
        alpha: weight of the teacher, 0 to 1.
    """
    loss = alpha * kl_divergence(student, teacher, temperature)
    if alpha < 1:
        loss = loss + (1 - alpha) * F.cross_entropy(student.float(), labels)
    return loss
