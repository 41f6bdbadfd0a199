"""Distillation: losses as pure functions, objectives for the one loop, the teacher's outputs per view."""

from attar.distil.cache import TeacherError, ViewOutputs
from attar.distil.coding import OutputsError, coding_for
from attar.distil.losses import LOSSES, Loss, distillation_loss, find_loss, kl_divergence
from attar.distil.objective import (
    Batch,
    FromTeacher,
    Objective,
    TeacherOutputs,
    from_labels,
    outputs_ahead,
)
from attar.distil.pools import (
    Pool,
    cache_limit,
    cache_mode,
    find_pool,
    kept_pools,
    pools_folder,
    remove_pool,
)
from attar.distil.shipped import ShippedOutputs, export_pool, read_outputs

__all__ = [
    "LOSSES",
    "Batch",
    "FromTeacher",
    "Loss",
    "Objective",
    "OutputsError",
    "Pool",
    "ShippedOutputs",
    "TeacherError",
    "TeacherOutputs",
    "ViewOutputs",
    "cache_limit",
    "cache_mode",
    "coding_for",
    "distillation_loss",
    "export_pool",
    "find_loss",
    "find_pool",
    "from_labels",
    "kept_pools",
    "kl_divergence",
    "outputs_ahead",
    "pools_folder",
    "read_outputs",
    "remove_pool",
]
