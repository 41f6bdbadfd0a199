"""Prune any network to a hard budget, and prove it."""

import sys
from types import ModuleType
from typing import Any

from attar.prune.allocation import BudgetError
from attar.prune.api import count_macs, count_params, couple, prune
from attar.prune.engine import Cost, Cut, Pruner
from attar.prune.gradients import collect_gradients
from attar.prune.graph import CaptureError
from attar.prune.importance import IMPORTANCES, Context, reads_gradients, unit_slices, unit_sums, weights
from attar.prune.latency import Latency, measure_latency
from attar.prune.proof import ProofError
from attar.prune.sparse import GroupLasso, GrowingPenalty, WithPenalty
from attar.prune.surgery import describe, reshape

__all__ = [
    "IMPORTANCES",
    "BudgetError",
    "CaptureError",
    "Context",
    "Cost",
    "Cut",
    "GroupLasso",
    "GrowingPenalty",
    "Latency",
    "ProofError",
    "Pruner",
    "WithPenalty",
    "collect_gradients",
    "count_macs",
    "count_params",
    "couple",
    "describe",
    "measure_latency",
    "prune",
    "reads_gradients",
    "reshape",
    "unit_slices",
    "unit_sums",
    "weights",
]


class _Room(ModuleType):
    """Once it is imported, this room stands where `attar.prune` the function is promised: so it can be called."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return prune(*arguments, **keywords)


sys.modules[__name__].__class__ = _Room
