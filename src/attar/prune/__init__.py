"""Prune any network to a hard budget, and prove it."""

from attar.prune.allocation import BudgetError
from attar.prune.api import count_macs, count_params, couple, prune
from attar.prune.capture import CaptureError
from attar.prune.engine import Cost, Cut, Pruner
from attar.prune.proof import ProofError
from attar.prune.surgery import describe, reshape

__all__ = [
    "BudgetError",
    "CaptureError",
    "Cost",
    "Cut",
    "ProofError",
    "Pruner",
    "count_macs",
    "count_params",
    "couple",
    "describe",
    "prune",
    "reshape",
]
