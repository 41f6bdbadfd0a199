"""What the benchmarks have in common: cases that take turns, ratios within a round, and a record of how it was measured.

A case is run in turn with those that it is compared to, within one round, so that whatever disturbs the machine hits
all alike; figures are medians over rounds and ratios are medians of each round's own ratio. A script of this folder
prints a result, and with --write keeps it in results/NAME.json, from which scripts/benchmark_page.py makes a page.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

RESULTS = Path(__file__).parent / "results"
Steps = Callable[[], object]


@dataclass
class Figure:
    """One measured quantity: median, quartiles, and how often it was measured."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Self:
        low, median, high = quartiles(values)
        return cls(name, unit, median, low, high, len(values))


@dataclass
class Goal:
    """A ratio that was aimed at, and what came out."""

    name: str
    ratio: Figure
    goal: float
    at_least: bool
    """Whether more is better."""

    @property
    def met(self) -> bool:
        return self.ratio.median >= self.goal if self.at_least else self.ratio.median <= self.goal


@dataclass
class Result:
    """What a benchmark found, and under which conditions."""

    name: str
    title: str
    settings: dict[str, Any]
    threads: int
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: str = ""
    """Where the time goes, where a goal is missed."""

    def show(self) -> str:
        """The result in lines of text."""
        lines = [self.title]
        for figure in self.figures:
            lines.append(
                f"  {figure.name:<44}{figure.median:>12,.4g} {figure.unit:<9} [{figure.low:,.4g}, {figure.high:,.4g}]"
            )
        for goal in self.goals:
            wanted = f"{'at least' if goal.at_least else 'at most'} {goal.goal:g}"
            ends = f"[{goal.ratio.low:.3g}, {goal.ratio.high:.3g}]"
            lines.append(
                f"  {goal.name}: {goal.ratio.median:.3g} {ends}, goal {wanted}: {'met' if goal.met else 'MISSED'}"
            )
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), *([self.profile] if self.profile else [])])

    def write(self, conditions: str) -> Path:
        """Keep the result with the machine, versions, date and conditions."""
        record = asdict(self) | {"conditions": conditions, "date": f"{datetime.now(UTC):%Y-%m-%d}", **machine()}
        for goal, entry in zip(self.goals, record["goals"]):
            entry["met"] = goal.met
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        return path


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def in_turn(cases: Mapping[str, Steps], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, by case; each round calls all cases once, every other round in reverse order."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(warmup + rounds):
        for name, call in list(cases.items())[:: -1 if i % 2 else 1]:
            start = time.perf_counter()
            call()
            if i >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(name: str, over: Sequence[float], under: Sequence[float]) -> Figure:
    """The ratio of each round."""
    return Figure.of(name, "times", [a / b for a, b in zip(over, under, strict=True)])


class Worker:
    """A case in a process of its own, for settings that belong to a process: `make(*arguments)` there gives what to call."""

    def __init__(self, make: Callable[..., Steps], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))

    def __enter__(self) -> Self:
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._pipe.send("")
            self._process.join(10)
        self._process.terminate()
        self._process.join()

    def __call__(self) -> Any:
        self._pipe.send("go")
        return self._pipe.recv()


def _serve(pipe: Connection, make: Callable[..., Steps], arguments: tuple[Any, ...]) -> None:
    call = make(*arguments)
    pipe.send("ready")
    while pipe.recv():
        pipe.send(call())


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    wanted = ("torch", "numpy", "torchvision", "kornia", "torch-pruning")
    found = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name.lower() in wanted}
    return {
        "machine": {"processor": processor(), "cores": cores(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{name: found[name] for name in wanted if name in found}},
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name."""
    if sys.platform == "darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    widest = "AVX-512 with bf16" if any("avx512_bf16" in line for line in lines) else ""
    return ", ".join(part for part in (names[0] if names else platform.machine(), widest) if part)


def main(measure: Callable[[bool, int], Result], doc: str | None, threads: int = 0) -> None:
    """The command line of a benchmark: `measure(quick, threads)`; threads = 0 stands for all cores."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small and few, to see that it runs; the figures mean little"
    )
    parser.add_argument("--threads", type=int, default=threads or cores())
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--conditions", default="not stated", help="what else the machine did, for the record")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("a quick result is not kept")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes that are started from here
    result = measure(options.quick, options.threads)
    print(result.show())
    if options.write:
        print(f"written: {result.write(options.conditions).name}")
