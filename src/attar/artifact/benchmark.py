"""Latency, throughput, memory and size of an artifact's network and views, each measured in a process of its own.

A process of its own makes peaks of memory comparable, and keeps one library's threads out of another's way.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attar.artifact.classify import open_runner, view_name
from attar.artifact.errors import ArtifactError
from attar.artifact.folder import WEIGHTS
from attar.artifact.limits import within_memory
from attar.artifact.runners import view_names
from attar.artifact.timing import golden_images, seconds_per_batch
from attar.artifact.views import import_extra

BATCHES = (1, 256)
NETWORK = "network"


@dataclass(frozen=True)
class Measured:
    """One batch size."""

    batch: int
    seconds: float
    """Median of a batch."""
    peak_bytes: int
    """The most memory that the process held, libraries included."""
    own_bytes: int
    """The part of it that came after the libraries were loaded: the network, its images and its activations."""

    @property
    def images_per_second(self) -> float:
        return self.batch / self.seconds


@dataclass(frozen=True)
class Bench:
    """What was measured of the network or one view."""

    name: str
    """`network`, `teacher`, or the view's file name."""
    file_bytes: int
    threads: int
    measured: tuple[Measured, ...] = ()
    error: str = ""


def bench(
    path: str | Path,
    view: str | None = None,
    *,
    name: str = NETWORK,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    seconds: float = 2.0,
    allow: Collection[str] = (),
) -> Bench:
    """Measure the network (or a view) of an artifact on golden images, repeated to the batch's size.

    Args:
        path: the artifact's folder.
        view: `onnx`, `int8`, `pt2` or a view's file name; the network in torch by default.
        name: what to call the network in the result.
        batches: batch sizes; measured upwards, told in this order.
        threads: for torch and for ONNX Runtime alike.
        seconds: about how long to measure each batch size; never fewer than five times.
        allow: names of builders that the artifact may call, as for `attar.load`.

    Raises ArtifactError if there is no such view; what goes wrong in the measuring process is told by `Bench.error`.
    """
    if view is not None:
        view = name = view_name(path, view)
    size = (Path(path) / (view or WEIGHTS)).stat().st_size
    order = {"path": str(path), "view": view, "batches": list(batches), "threads": threads, "seconds": seconds,
             "allow": list(allow)}  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", "from attar.artifact.benchmark import main; main()", json.dumps(order)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]
        return Bench(name, size, threads, error=said[-1])
    rows = json.loads(done.stdout.splitlines()[-1])
    return Bench(name, size, threads, tuple(Measured(**row) for row in rows))


def bench_all(
    path: str | Path,
    views: Sequence[str] = (),
    *,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    seconds: float = 2.0,
    allow: Collection[str] = (),
    tell: Callable[[str], None] = lambda name: None,
) -> list[Bench]:
    """Measure the network and every view that the artifact has, or only those named (`network`, `onnx`, ...).

    `tell` is told what is measured next.
    """
    found = []
    for view in views or (NETWORK, *view_names(path)):
        tell(view)
        shown = None if view == NETWORK else view
        found.append(bench(path, shown, batches=batches, threads=threads, seconds=seconds, allow=allow))
    return found


def measure(order: str) -> str:
    """What the measuring process does: JSON in, JSON out."""
    wanted = json.loads(order)
    for library in ("onnxruntime",) if (wanted["view"] or "").endswith(".onnx") else ("attar.prune", "torch.export"):
        import_extra(library, "onnx")  # before the memory's start is taken
    images = golden_images(wanted["path"])
    before = _memory("VmRSS")
    run = open_runner(wanted["path"], wanted["view"], allow=wanted["allow"], threads=wanted["threads"])
    rows = {}
    for batch in sorted(set(wanted["batches"])):  # upwards, as the peak of memory never falls
        some = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
        seconds = seconds_per_batch(run, some, wanted["threads"], wanted["seconds"])
        peak = _memory("VmHWM")
        rows[batch] = asdict(Measured(batch, seconds, peak, max(0, peak - before)))
    return json.dumps([rows[batch] for batch in wanted["batches"]])


def _memory(kind: str) -> int:
    """Bytes that the process holds (`VmRSS`), or the most that it ever held (`VmHWM`); by getrusage off Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{kind}:"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def main() -> None:
    """The measuring process."""
    try:
        with within_memory(_physical_memory()):
            print(measure(sys.argv[1]))
    except ArtifactError as error:
        sys.exit(str(error))


def _physical_memory() -> int:
    """Bytes: what the machine has, where it tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40
