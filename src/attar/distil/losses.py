"""Distillation losses: pure functions of logits.

A loss is a function (student, teacher, labels, temperature, alpha) -> scalar. A user's own is named in a recipe by
`distil.loss = "package.module:function"`; docs/extend.md shows how to write one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from attar.names import closest, function_named, names_function

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, float], torch.Tensor]


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
        labels: int64 (batch,); of mixtures float32 (batch, classes), the shares of the two.
        temperature: softens both distributions.
        alpha: weight of the teacher, 0 to 1.
    """
    loss = alpha * kl_divergence(student, teacher, temperature)
    if alpha < 1:
        loss = loss + (1 - alpha) * F.cross_entropy(student.float(), labels)
    return loss


LOSSES: dict[str, Loss] = {"kl": distillation_loss}


def find_loss(name: str, classes: int, mixed: bool = False) -> Loss:
    """The loss of this name (attar's, or `package.module:function`), tried on two images' logits.

    mixed: labels will be those of mixtures.

    Raises ValueError where there is none, or where it gives no finite scalar that the student's logits can learn from.
    """
    if name not in LOSSES and not names_function(name):
        raise ValueError(
            f"there is no loss {name!r}{closest(name, LOSSES)}; attar has {', '.join(LOSSES)}; "
            "package.module:function names your own"
        )
    loss = LOSSES[name] if name in LOSSES else function_named(name)
    student = torch.linspace(-1, 1, 2 * classes).view(2, classes).requires_grad_()
    labels = torch.zeros(2, dtype=torch.int64)
    given = F.one_hot(labels, classes).float() if mixed else labels
    value = loss(student, student.detach().flip(1), given, 4.0, 0.5)
    if not isinstance(value, torch.Tensor) or value.dim() or not value.requires_grad or not torch.isfinite(value):
        raise ValueError(f"the loss {name!r} gives {value!r:.200}; it must be one finite number with a gradient")
    return loss
