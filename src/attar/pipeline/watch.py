"""What a run tells whoever watches it: plain facts, no formatting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Update:
    """Training has moved on."""

    stage: str
    label: str
    """`epoch 3/30`, `step 12/30`."""
    done: float
    """Share of the stage's work that is done, 0 to 1."""
    eta: float | None
    """Seconds until the stage ends, at the speed of this start of the run."""
    images_per_second: float
    loss: float
    accuracy: float
    """On the augmented training views, 0 to 1."""


class Watcher(Protocol):
    """Anything that shows progress: a terminal, a log, nothing."""

    def stage(self, name: str, text: str) -> None:
        """A stage begins, goes on after a stop, or is found done."""

    def update(self, update: Update) -> None:
        """Called after every optimiser step; must be cheap."""

    def note(self, text: str) -> None:
        """A line that should stay visible."""


class Silent:
    """Watches nothing."""

    def stage(self, name: str, text: str) -> None:
        pass

    def update(self, update: Update) -> None:
        pass

    def note(self, text: str) -> None:
        pass
