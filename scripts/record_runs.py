"""Everything that a record needs, of several recipes and seeds, in pieces of limited time: teacher, runs, controls.

    python scripts/record_runs.py recipes/fashion-mnist-100k.toml recipes/fashion-mnist-50k.toml --seeds 0,1,2 \\
        --seconds 540 --out "$OUT" data.folder=FOLDER

Called again it goes on where it stopped. Exit code 0: everything is done; 3: time is up, call it again; 1: a run failed, and
the others were gone on with. Recipes with the same teacher share one, taught first. For every recipe and seed: the run, then
its control with the teacher and the one without. Where the code lies without its repository, name its commit:
ATTAR_COMMIT=SHA. With ATTAR_VIEW_CACHE=all the control with the teacher, and recipes of other budgets, read what the teacher said
to the first run, instead of asking it again.

Written into --out, anew on every call:
    status.json        what is done, and how far the rest is
    home.tar.000 ...   in pieces of at most 15 MiB (cat home.tar.* | tar x):
        records/       the record of every finished run, fit to be committed
        artifacts/     NAME-SEED: its artifact, for `attar zoo add`
        runs/          with --state: all that a machine which starts from nothing needs to go on (--restore FOLDER)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.cli.show import shower
from attar.files import write_whole
from attar.pipeline import Interrupted, run
from attar.pipeline.control import control
from attar.pipeline.folder import TEST, RunFolder
from attar.pipeline.record import write_record
from attar.recipe import Recipe, check_recipe, load_recipe

PIECE = 15 << 20
TIME_IS_UP, FAILED = 3, 1
STATE = (".json", ".jsonl", ".toml", ".safetensors")


@dataclass(frozen=True)
class Job:
    """A run with its controls."""

    name: str
    recipe: Recipe
    folder: Path

    def done(self, controls: bool) -> bool:
        finished = (self.folder / "artifact" / "report.json").is_file() and (self.folder / TEST).is_file()
        if not finished or not controls:
            return finished
        report = json.loads((self.folder / "artifact" / "report.json").read_text())
        return len(report["controls"]) == len(list(self.controls()))

    def controls(self) -> Iterator[bool]:
        """Which controls the run has: with its teacher (True), without (False)."""
        taught = self.recipe.teacher is not None and self.recipe.distil.alpha > 0
        if taught and self.recipe.prune is not None:
            yield True
        yield False


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if options.restore:
        restore(options.restore, options.runs)
    deadline = time.monotonic() + options.seconds
    jobs, code = [], 0
    try:
        jobs = plan(options, deadline)
        for job in jobs:
            try:
                carry_out(job, options.controls, deadline)
            except Interrupted:
                raise
            except Exception:  # whatever it was, what else can be done is done, and what is done comes home
                code = FAILED
                print(f"{job.name} failed:\n{traceback.format_exc()}", file=sys.stderr)
    except (Interrupted, KeyboardInterrupt):
        code = code or TIME_IS_UP
        print("time is up; the same command goes on")
    hand_over(options, jobs, code)
    return code


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="+", metavar="RECIPE|KEY=VALUE", help="recipes, and values to override in all")
    parser.add_argument("--seeds", default="0,1,2", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument(
        "--seconds", type=float, default=540, help="time for this call; a checkpoint is written at its end"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/record"), help="where the runs are; kept between calls")
    parser.add_argument("--out", type=Path, required=True, help="what is brought home")
    parser.add_argument("--no-controls", dest="controls", action="store_false")
    parser.add_argument("--state", action="store_true", help="bring home what another machine needs to go on, too")
    parser.add_argument("--restore", type=Path, help="the --out of an earlier call with --state")
    options = parser.parse_args(arguments)
    options.recipes = [Path(text) for text in options.given if "=" not in text]
    options.overrides = [text for text in options.given if "=" in text]
    if not options.recipes:
        parser.error("no recipe is named")
    return options


def plan(options: argparse.Namespace, deadline: float) -> list[Job]:
    """The runs, first seeds of all recipes first; their teachers are taught here, one for all that ask for the same."""
    jobs = []
    for seed in options.seeds:
        for path in options.recipes:
            recipe = load_recipe(path, (*options.overrides, f"seed={seed}"))
            values = taught(recipe, options, deadline)
            jobs.append(Job(f"{recipe.name}-{seed}", check_recipe(values), options.runs / f"{recipe.name}-{seed}"))
    return jobs


def taught(recipe: Recipe, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """The recipe's values, with the weights of the taught teacher in place of its schedule."""
    values: dict[str, Any] = recipe.model_dump(mode="json")
    teacher = recipe.teacher_network
    if teacher is None or teacher.train is None:
        return values
    values["seed"] = options.seeds[0]  # one teacher for all seeds
    same = {key: values[key] for key in ("data", "augment", "teacher", "seed")}
    folder = options.runs / f"teacher-{hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]}"
    weights = folder / "teach.safetensors"
    if not weights.is_file():
        with timed(deadline), shower() as watcher:
            run(check_recipe({**values, "name": folder.name}), folder, watcher, until="teach")
    return {**values, "seed": recipe.seed, "teacher": {**values["teacher"], "train": None, "weights": str(weights)}}


def carry_out(job: Job, controls: bool, deadline: float) -> None:
    """The run and its controls, as far as time goes; raises Interrupted at the deadline."""
    if job.done(controls):
        return
    with timed(deadline), shower() as watcher:
        print(f"=== {job.name}", flush=True)
        run(job.recipe, job.folder, watcher)
        for with_teacher in job.controls() if controls else ():
            control(job.folder, with_teacher, watcher)


class timed:
    """A context that is interrupted, as by Ctrl-C, at the deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def __enter__(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Interrupted("time is up")
        self.before = signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, left, 5)  # again: what is not training stops at the second

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def hand_over(options: argparse.Namespace, jobs: Sequence[Job], code: int) -> None:
    """Write what is brought home: status, records and artifacts of finished runs, and the state if that is asked for."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("home.tar.*"):
        old.unlink()
    status = {job.name: told(job, options.controls) for job in jobs}
    with tempfile.TemporaryDirectory() as name:
        packed, records = Path(name) / "home.tar", Path(name) / "records"
        with tarfile.open(packed, "w") as archive:
            for job in jobs:
                if job.done(False):
                    write_record(job.folder, records)
                    archive.add(job.folder / "artifact", f"artifacts/{job.name}")
            if records.is_dir():
                archive.add(records, "records")
            for file in state(options.runs) if options.state else ():
                archive.add(file, Path("runs") / file.relative_to(options.runs))
        with packed.open("rb") as source:
            for number, piece in enumerate(iter(lambda: source.read(PIECE), b"")):
                (out / f"home.tar.{number:03d}").write_bytes(piece)
    write_whole(out / "status.json", json.dumps({"exit_code": code, "runs": status}, indent=1) + "\n")
    print(json.dumps(status, indent=1))


def told(job: Job, controls: bool) -> dict[str, Any]:
    """How far a run is."""
    folder = RunFolder(job.folder)
    stages = [stage for stage in ("teach", "distil", "prune", "export") if folder.finished(stage)]
    found: dict[str, Any] = {"done": job.done(controls), "stages": stages}
    if lines := folder.metrics():
        found["last"] = {key: lines[-1].get(key) for key in ("stage", "label", "epoch", "images", "held_out")}
    if job.done(False):
        report = json.loads((job.folder / "artifact" / "report.json").read_text())
        found |= {"params": report["cost"]["after"]["params"], "controls": [c["name"] for c in report["controls"]]}
    return found


def state(runs: Path) -> Iterator[Path]:
    """The files that the runs go on from; artifacts are left out, since they can be made again."""
    for file in sorted(runs.rglob("*")):
        hidden = file.name.startswith(".") or "artifact" in file.parts
        if file.is_file() and file.suffix in STATE and not hidden:
            yield file


def restore(home: Path, runs: Path) -> None:
    """Unpack the runs of an earlier call's --out, where none are yet."""
    if runs.exists():
        return
    with tempfile.TemporaryFile() as joined:
        for piece in sorted(home.glob("home.tar.[0-9][0-9][0-9]")):
            joined.write(piece.read_bytes())
        joined.seek(0)
        with tarfile.open(fileobj=joined) as archive:
            for member in archive.getmembers():
                if member.name.startswith("runs/"):
                    member.name = member.name.removeprefix("runs/")
                    archive.extract(member, runs, filter="data")


if __name__ == "__main__":
    sys.exit(main())
