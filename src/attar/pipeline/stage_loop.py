"""Calls of the one loop within a stage: progress, the log, and a checkpoint every so often."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from attar.distil import Objective
from attar.pipeline.clock import Clock
from attar.pipeline.interrupt import Interrupted, StopSignal
from attar.pipeline.session import Session
from attar.pipeline.watch import Update
from attar.recipe import Training
from attar.train import Progress, TrainState, fit

TEACH = "teach"
"""How the names of the stages begin that train a teacher."""


class StageLoop:
    """Runs the loop for one stage and keeps its checkpoint."""

    def __init__(self, session: Session, stage: str, state: TrainState, total: float) -> None:
        """
        Args:
            session: the run.
            stage: its name in logs and checkpoints.
            state: what is trained.
            total: images that the whole stage will see, for the remaining time.
        """
        self.session, self.stage, self.state = session, stage, state
        self.clock = Clock(total, state.position.images)
        self.tensors: dict[str, torch.Tensor] = {}
        """Saved with every checkpoint beside the state's own tensors."""
        self.numbers: dict[str, Any] = {}
        """Likewise, plain numbers."""
        self._saved_at = time.monotonic()

    def save(self) -> None:
        """Write a checkpoint of this moment; raises NotFinite where training broke down."""
        self.state.check_finite()
        self.session.folder.checkpoint(
            self.stage,
            {**self.state.tensors(), **self.tensors},
            {"position": self.state.numbers(), **self.numbers},
        )
        self._saved_at = time.monotonic()

    def fit(
        self, training: Training, objective: Objective, label: str = "", view_pool: int = 0, record: bool = True
    ) -> float | None:
        """Run the loop to the end of `training`, from wherever the state stands; arguments as for `attar.train.fit`.

        Returns:
            Held-out accuracy at the end (0 to 1), with the averaged weights where there are some.

        Raises:
            Interrupted: Ctrl-C; a checkpoint was written.
            NotFinite: training broke down.
        """
        interval = self.session.recipe.compute.checkpoint_seconds
        held_out: list[float | None] = []
        with StopSignal() as stop:

            def on_epoch(progress: Progress) -> None:
                held_out.append(self._report(progress, label))

            def on_step(progress: Progress) -> None:
                self._show(progress, label, training)
                asked = bool(self.session.ranks.any(torch.tensor([stop.asked])))  # all stop at the same step
                if asked or time.monotonic() - self._saved_at >= interval:
                    self.save()
                if asked:
                    raise Interrupted(f"stopped after step {progress.step} of {progress.steps}")

            fit(
                self.state,
                objective,
                self.session.views if self.stage.startswith(TEACH) else self.session.student_views,
                self.session.split.train,
                training,
                view_pool=view_pool,
                ranks=self.session.ranks,
                record=record,
                tell=self.session.watcher.note,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        self.state.check_finite()
        return held_out[-1] if held_out else self.held_out()

    def held_out(self) -> float | None:
        """Held-out accuracy of the weights that would be shipped now."""
        with self.state.averaged() as model:
            return self.session.held_out_accuracy(model)

    def _report(self, progress: Progress, label: str) -> float | None:
        held_out = self.held_out()
        self.session.folder.log(
            stage=self.stage,
            label=label,
            epoch=progress.epoch,
            step=progress.step,
            images=progress.images,
            learning_rate=progress.learning_rate,
            loss=progress.loss,
            accuracy=progress.accuracy,
            held_out=held_out,
            images_per_second=round(self.clock.tick(progress.images)[0], 1),
        )
        if not label:
            shown = "" if held_out is None else f", held-out accuracy {held_out:.2%}"
            self.session.watcher.note(
                f"{self.stage}: epoch {progress.epoch + 1}, loss {progress.loss:.4f}, "
                f"training accuracy {progress.accuracy:.2%}{shown}"
            )
        return held_out

    def _show(self, progress: Progress, label: str, training: Training) -> None:
        speed, eta = self.clock.tick(progress.images)
        shown = label or f"epoch {progress.epoch + 1}/{math.ceil(training.epochs)}"
        done = min(1.0, progress.images / self.clock.total)
        self.session.watcher.update(Update(self.stage, shown, done, eta, speed, progress.loss, progress.accuracy))
