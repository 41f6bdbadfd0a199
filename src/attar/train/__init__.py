"""The one loop that teaches, distils and fine-tunes, with what it needs: optimiser, moving average, precision, checkpoints."""

from attar.train.checkpoint import (
    CheckpointError,
    NotFinite,
    read_checkpoint,
    read_numbers,
    write_checkpoint,
)
from attar.train.loop import Diverged, Progress, accuracy, fit, predict, steps_for
from attar.train.machine import Machine
from attar.train.ranks import ALONE, RankError, Ranks
from attar.train.state import TrainState

__all__ = [
    "ALONE",
    "CheckpointError",
    "Diverged",
    "Machine",
    "NotFinite",
    "Progress",
    "RankError",
    "Ranks",
    "TrainState",
    "accuracy",
    "fit",
    "predict",
    "read_checkpoint",
    "read_numbers",
    "steps_for",
    "write_checkpoint",
]
