"""How progress looks: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from attar.pipeline.watch import Update, Watcher

QUIET_SECONDS = 10.0
"""Plain lines come this far apart."""


class Shower(Watcher, Protocol):
    """A watcher that is opened and closed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lines:
    """One line for each event, and one every ten seconds while training goes on."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        pass

    def stage(self, name: str, text: str) -> None:
        print(f"== {name}{f': {text}' if text else ''}", flush=True)

    def update(self, update: Update) -> None:
        if time.monotonic() - self._last < QUIET_SECONDS:
            return
        self._last = time.monotonic()
        print(
            f"{update.stage}, {update.label}: {update.done:.0%}, loss {update.loss:.4f}, accuracy {update.accuracy:.2%}, "
            f"{update.images_per_second:,.0f} images/s, {remaining(update.eta)} left",
            flush=True,
        )

    def note(self, text: str) -> None:
        print(text, flush=True)


class Bar:
    """A live bar for the stage under way, notes above it (rich)."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        self._task: int | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._progress.stop()

    def stage(self, name: str, text: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._progress.tasks[0].id)
            self._task = None
        self._progress.console.print(f"[bold]{name}[/bold] {text}")

    def update(self, update: Update) -> None:
        if self._task is None:
            self._task = self._progress.add_task(update.stage, total=1.0, facts="")
        if time.monotonic() - self._last < 0.2 and update.done < 1:
            return
        self._last = time.monotonic()
        facts = (
            f"{update.label}  loss {update.loss:.3f}  accuracy {update.accuracy:.1%}  "
            f"{update.images_per_second:,.0f} images/s  {remaining(update.eta)} left"
        )
        self._progress.update(self._progress.tasks[0].id, completed=update.done, facts=facts)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


def shower(quiet: bool = False) -> Shower:
    """What fits standard output; plain lines, which stay unwritten, where a run tells this process nothing (`quiet`)."""
    return Bar() if sys.stdout is not None and sys.stdout.isatty() and not quiet else Lines()


def remaining(seconds: float | None) -> str:
    """`3:07`, `1:02:30`, or `?` while unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
