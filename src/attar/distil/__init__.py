"""Distillation: losses as pure functions, objectives for the one loop, the teacher's outputs per view."""

from attar.distil.losses import distillation_loss, kl_divergence
from attar.distil.objective import Batch, FromTeacher, Objective, OnlineTeacher, TeacherOutputs, from_labels

__all__ = [
    "Batch",
    "FromTeacher",
    "Objective",
    "OnlineTeacher",
    "TeacherOutputs",
    "distillation_loss",
    "from_labels",
    "kl_divergence",
]
