"""The run's log as TensorBoard shows it: curves of every stage, and cost and accuracy after every step of pruning."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attar.recipe import RecipeError

CURVES = ("loss", "accuracy", "held_out", "learning_rate", "images_per_second")
"""Of a stage, over the images that it has seen."""


class Board:
    """Event files in a folder, which hold what the run's own log holds: written anew whenever that is cut back."""

    def __init__(self, folder: Path) -> None:
        """Raises RecipeError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RecipeError(f"--tensorboard needs TensorBoard: pip install 'attar[tensorboard]' ({error})") from None
        self.folder = folder
        self._open = lambda: SummaryWriter(str(folder), flush_secs=10)
        self._writer: Any = None

    def rewrite(self, lines: Iterable[dict[str, Any]], frontier: Iterable[dict[str, Any]]) -> None:
        """Forget all that was written, and write these lines of the log and points of the frontier."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._writer = self._open()
        for line in lines:
            self.line(line)
        for point in frontier:
            self.point(point)
        self._writer.flush()

    def line(self, values: dict[str, Any]) -> None:
        """A line of the log: the curves of its stage."""
        for name in CURVES:
            if values.get(name) is not None:
                self._writer.add_scalar(f"{values['stage']}/{name}", values[name], values["images"])

    def point(self, point: dict[str, Any]) -> None:
        """A step of pruning: what the network costs after it, and its held-out accuracy before and after fine-tuning."""
        known = {**point["cost"], "held_out": point.get("held_out"), "held_out_before": point.get("held_out_before")}
        for name, value in known.items():
            if value is not None:
                self._writer.add_scalar(f"frontier/{name}", value, point["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
