"""The run folder: what a run leaves behind, how it is locked, and how it goes on after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from attar.files import write_whole
from attar.pipeline.environment import peak_memory
from attar.pipeline.tensorboard import Board
from attar.recipe import Recipe, RecipeError, check_recipe, difference
from attar.train import read_checkpoint, read_numbers, write_checkpoint

FREE_BYTES = 1 << 30
"""Disk space that must be free before a run starts: checkpoints, artifact and report of anything attar trains."""

CODE = ("commit", "versions")
"""Parts of the environment that a run may change between its starts, as far as it says so."""

TEST = "test.json"
"""The file in the run folder that holds what was read of the test images."""
CHECKPOINT = "checkpoint.safetensors"
"""The file in the run folder that holds the middle of the stage under way."""

HOLDS = {
    "run.json": ("recipe", "environment", "machine", "data", "split", "starts"),
    TEST: ("read", "student", "predictions"),
}
"""What files of a run have at the least."""

Tensors = Mapping[str, torch.Tensor]


class RunError(ValueError):
    """A run folder cannot be used; the message says why and what to do."""


class RunFolder:
    """One folder, one run. Use it as a context: it is locked from entry to exit, also against other processes.

    Files: `run.json` (recipe, environment, data), `metrics.jsonl`, `checkpoint.safetensors` (the stage under way),
    `STAGE.safetensors` (finished stages), `artifact/`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None
        self._board: Board | None = None
        self._spent, self._since = 0.0, time.monotonic()  # seconds of the stage in earlier starts; start of this one

    def __enter__(self) -> RunFolder:
        self._lock = lock(self.path)
        self._check_space()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._lock is not None:
            self._lock.close()

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path).free
        if free < FREE_BYTES:
            raise RunError(
                f"{free / 1e6:.0f} MB are free where {self.path} is and a run may need {FREE_BYTES / 1e6:.0f} MB; "
                "make room or choose another --out"
            )

    @property
    def done(self) -> bool:
        """Whether every stage is done and the test images are read."""
        return (self.path / TEST).is_file()

    @property
    def artifact(self) -> Path:
        return self.path / "artifact"

    def check_artifact(self) -> None:
        """See that what the stage `export` made is there; raises RunError where it is not, with the way out."""
        if self.finished("export") and not self.artifact.is_dir():
            raise RunError(
                f"{self.artifact} is gone: it was moved or deleted. Put it back (a copy of it can be used elsewhere), or delete "
                f"{self.path / 'export.safetensors'} and give the command of the run again, which exports it anew"
            )

    def adopt(self, recipe: Recipe, facts: dict[str, Any]) -> dict[str, Any]:
        """Record a new run, or check that the folder's old run is this very one; what is exported may change until it is.

        A start of a run that is done makes nothing but its pages again, and is not recorded.

        Args:
            recipe: what is to be run.
            facts: environment, machine, data and split of this start.

        Returns:
            The facts of the run's first start, and under `starts` what is known of every earlier one.

        Raises:
            RunError: the folder holds another recipe's run, or a run on other data; with the difference.
        """
        old = self.recorded(recipe, facts)
        plain = recipe.model_dump(mode="json")
        if old is None:
            self.write_json("run.json", {"recipe": plain, **facts, "starts": [_start(facts)]})
            return facts
        old["recipe"]["export"] = plain["export"]
        if not self.done:
            self.write_json("run.json", {**old, "starts": [*old["starts"], _start(facts)]})
        return old

    def recorded(self, recipe: Recipe, facts: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """What the folder holds of this very run, None if it has yet to begin; the folder is only looked at.

        Args:
            recipe, facts: as for `adopt`; without facts, the data are not compared.

        Raises:
            RunError: as `adopt`.
        """
        file = self.path / "run.json"
        if not file.exists():
            own = re.compile(r"\.lock|\..*\.partial")  # the latter of a start that was killed while it wrote
            there = self.path.iterdir() if self.path.is_dir() else ()
            if leftover := [p.name for p in there if not own.fullmatch(p.name)]:
                raise RunError(
                    f"{self.path} is not a run folder and holds {', '.join(sorted(leftover)[:5])}; choose another"
                )
            return None
        old: dict[str, Any] = self.read_json("run.json")
        changes = difference(with_defaults(old["recipe"]), recipe.model_dump(mode="json"))
        if not any(self.finished(stage) or self.under_way(stage) for stage in ("int8", "export")):
            changes = [change for change in changes if not change.startswith("export.")]
        if changes:
            listed = "\n  ".join(changes)
            raise RunError(
                f"{self.path} holds a run of another recipe; choose another --out, or go back to the old values:\n  {listed}"
            )
        if facts is None:
            return old
        for name, what in (("data", "fingerprint"), ("split", "digest")):  # the same content may lie elsewhere by now
            if old[name][what] != facts[name][what]:
                raise RunError(f"{self.path} was started on another {name}: {old[name]} then, {facts[name]} now")
        return old

    def write_json(self, name: str, content: Any) -> None:
        write_whole(self.path / name, json.dumps(content, indent=1) + "\n")

    def write_text(self, name: str, content: str) -> None:
        write_whole(self.path / name, content)

    def read_json(self, name: str) -> Any:
        return read_json(self.path / name, HOLDS.get(name, ()), f", or delete {self.path} to begin anew")

    def finished(self, stage: str) -> bool:
        return (self.path / f"{stage}.safetensors").exists()

    def finish(self, stage: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Keep a stage's result; the checkpoint of its middle is no longer needed."""
        self._write(f"{stage}.safetensors", tensors, {"peak_memory": peak_memory(), **numbers})
        self._spent, self._since = 0.0, time.monotonic()
        if not self._middle_is_needed():  # else an earlier stage's result was deleted, and taken anew
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def take_over(self, stage: str, other: RunFolder) -> None:
        """Take a finished first stage over from another run that does the very same there: its result and its log."""
        tensors, numbers = other.result(stage)
        file = other.path / "metrics.jsonl"
        log = file.read_bytes()[: numbers["metrics_bytes"]] if file.exists() else b""
        write_whole(self.path / "metrics.jsonl", log)
        write_checkpoint(self.path / f"{stage}.safetensors", tensors, numbers)

    def result(self, stage: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return read_checkpoint(self.path / f"{stage}.safetensors")

    def numbers(self, stage: str) -> dict[str, Any]:
        """Of a finished stage's result, the numbers alone."""
        return read_numbers(self.path / f"{stage}.safetensors")

    def checkpoint(self, stage: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
        """Save the middle of a stage."""
        self._write(CHECKPOINT, tensors, {"stage": stage, **numbers})

    def resume(self, stage: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """The middle of a stage, if that is where the run stopped; the log is cut back to that moment."""
        file = self.path / CHECKPOINT
        if not file.exists():
            return None
        tensors, numbers = read_checkpoint(file)
        if numbers["stage"] != stage:
            return None
        self._cut_metrics(numbers["metrics_bytes"])
        self._spent, self._since = numbers.get("seconds", 0.0), time.monotonic()
        return tensors, numbers

    def under_way(self, stage: str) -> bool:
        """Whether the run stopped in the middle of a stage; as far as it can be seen without a change."""
        return self._middle() == stage

    def begin(self, stage: str) -> None:
        """Start a stage from its beginning: drop what an earlier attempt logged. Lines of other stages stay.

        Raises:
            RunError: the middle of another stage is kept here, and would be lost.
        """
        if self._middle_is_needed() and (other := self._middle()) != stage:
            raise RunError(
                f"{self.path} stopped in the middle of {other}, and {stage}.safetensors, from before it, is gone: put that back, "
                f"or delete {self.path / CHECKPOINT} to do {other} again from its beginning"
            )
        file = self.path / "metrics.jsonl"
        kept = "".join(json.dumps(line) + "\n" for line in self.metrics() if line["stage"] != stage)
        if file.exists() and file.read_bytes() != kept.encode():
            write_whole(file, kept)
            self._redraw()
        self._spent, self._since = 0.0, time.monotonic()

    def _middle(self) -> str | None:
        """The stage that the checkpoint is of, if there is one."""
        file = self.path / CHECKPOINT
        return str(read_numbers(file)["stage"]) if file.exists() else None

    def _middle_is_needed(self) -> bool:
        """Whether there is a checkpoint that is more than what a finished stage left over."""
        stage = self._middle()
        return stage is not None and not self.finished(stage)

    def log(self, **values: Any) -> None:
        """Append a line to the metrics, with the `seconds` that the stage has taken so far."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({**values, "seconds": self.seconds}) + "\n")
        if self._board is not None:
            self._board.line(values)

    @property
    def seconds(self) -> float:
        """Of the stage under way, over all starts."""
        return round(self._spent + time.monotonic() - self._since, 3)

    def show(self, points: Sequence[dict[str, Any]]) -> None:
        """Show points of the frontier where the run's log is shown."""
        if self._board is not None:
            for point in points:
                self._board.point(point)

    def show_on(self, board: Board) -> None:
        """From now on show the log, what it holds already too, on this board."""
        self._board = board
        self._redraw()

    def _redraw(self) -> None:
        if self._board is not None:
            self._board.rewrite(self.metrics(), self.numbers("prune")["frontier"] if self.finished("prune") else ())

    def metrics(self) -> list[dict[str, Any]]:
        """The log's lines; without the last one, where that was torn off by a kill."""
        file = self.path / "metrics.jsonl"
        *lines, rest = file.read_bytes().split(b"\n") if file.exists() else [b""]
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise RunError(f"{file} is damaged: line {number} ({error}); delete that line") from None
        with contextlib.suppress(ValueError):
            found.append(json.loads(rest))
        return found

    def _write(self, name: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
        metrics = self.path / "metrics.jsonl"
        size = 0
        if metrics.exists():
            with metrics.open("rb") as file:
                os.fsync(file.fileno())
                size = file.seek(0, os.SEEK_END)
        try:
            write_checkpoint(self.path / name, tensors, {"seconds": self.seconds, **numbers, "metrics_bytes": size})
        except OSError as error:
            raise RunError(
                f"cannot write {self.path / name}: {error.strerror}; the last checkpoint is whole: "
                "make room and give the same command again"
            ) from None

    def _cut_metrics(self, size: int) -> None:
        metrics = self.path / "metrics.jsonl"
        if metrics.exists() and metrics.stat().st_size > size:
            os.truncate(metrics, size)
            self._redraw()


def images_of(facts: dict[str, Any]) -> tuple[str, str]:
    """What tells a run's data and their division from others, by the facts of its start."""
    return facts["data"]["fingerprint"], facts["split"]["digest"]


def lock(folder: Path, wait: bool = False, name: str = ".lock") -> IO[str]:
    """Lock a folder, which is made if it is not there, against all other processes until the file returned is closed.

    Args:
        folder: the folder.
        wait: for another process that has locked it.
        name: of the file that is locked, in the folder.

    Raises:
        RunError: it cannot be written to, is locked by another process, or is on a file system without locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a+")
    except OSError as error:
        raise RunError(f"cannot write to the run folder {folder}: {error.strerror}; choose another --out") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunError(f"the run folder {folder} is in use by process {holder}; wait for it or stop it") from None
    except OSError as error:  # file systems of a network may have no locks
        file.close()
        raise RunError(f"cannot lock the run folder {folder}: {error.strerror}; choose another --out") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def read_json(file: Path, keys: Sequence[str] = (), otherwise: str = "") -> Any:
    """What a file holds; raises RunError where it is damaged or lacks one of `keys`, with the way out: a copy, or `otherwise`."""
    try:
        found = json.loads(file.read_text())
        if missing := [key for key in keys if not isinstance(found, dict) or key not in found]:
            raise ValueError(f"it has no {missing[0]!r}")
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); put back a copy of it{otherwise}") from None
    return found


def _start(facts: dict[str, Any]) -> dict[str, Any]:
    """What is kept of every start: the command, and the code that did it. (Older runs kept the command alone, as text.)"""
    return {"command": facts["command"], **{key: facts["environment"][key] for key in CODE}}


def with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recorded recipe with today's defaults for keys that attar did not know when it was recorded."""
    try:
        return check_recipe(recipe).model_dump(mode="json")
    except RecipeError:
        return recipe
