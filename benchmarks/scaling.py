"""One rank against two, each of one thread: images/s of a whole run's training stage under torchrun.

    python benchmarks/scaling.py            # four minutes; needs two free cores

`torchrun --nproc-per-node N -m attar run RECIPE` trains a ResNet-20 on labels, batches of 256 in all. The speed is that of
all epochs after the first, by the run's own metrics: start-up, the first step's choice of kernels and export are left out.
As a control, two runs at once that share nothing, with half of the batch each: what the machine's two cores allow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import Figure, Goal, Result, in_turn, main, ratio

GOAL = 1.7
BATCH = 256
ONE, TWO, APART = "1 rank", "2 ranks", "control: 2 runs that share nothing"
RECIPE = """
name = "scaling"
[data]
source = "npz:{data}"
held_out = 0
[augment]
crop_padding = 2
[student]
model = "resnet20"
arguments = {{ widths = [16, 32, 64] }}
[distil]
alpha = 0
[distil.train]
epochs = {epochs}
batch = {batch}
learning_rate = 0.01
[export]
onnx = false
pt2 = false
int8 = false
[compute]
device = "cpu"
threads = 1
checkpoint_seconds = 1000
"""


def images_per_second(ranks: int, folder: Path) -> float:
    """Of a fresh run's epochs after the first."""
    out = folder / f"run-{ranks}"
    shutil.rmtree(out, ignore_errors=True)
    torchrun(ranks, "-m", "attar", "run", str(folder / "recipe.toml"), "--out", str(out))
    return steady_speed(out)


def apart(folder: Path) -> float:
    """Of two fresh runs at once, each of half the batch on one thread, together; epochs after the first."""
    outs = [folder / f"run-apart-{n}" for n in range(2)]
    started = []
    for out in outs:
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "attar", "run", str(folder / "half.toml"), "--out", str(out)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=one_thread()))
    if any([process.wait() for process in started]):
        raise RuntimeError("a run of the control failed")
    return sum(steady_speed(out) for out in outs)


def steady_speed(out: Path) -> float:
    """Images/s of a run's epochs after the first."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    return float((last["images"] - first["images"]) / (last["seconds"] - first["seconds"]))


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, *arguments: str) -> str:
    """Run a program on so many ranks of one thread; returns what it prints."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        *arguments,
    ]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=one_thread()).stdout


def measure(quick: bool, threads: int) -> Result:
    batch, steps, epochs, rounds = (16, 2, 2, 1) if quick else (BATCH, 8, 6, 3)
    speeds: dict[str, list[float]] = {name: [] for name in (ONE, TWO, APART)}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        rng = np.random.default_rng(0)
        arrays = {
            f"x_{part}": rng.integers(0, 256, (batch * steps, 28, 28), dtype=np.uint8) for part in ("train", "test")
        }
        labels = np.arange(batch * steps) % 10
        np.savez(folder / "data.npz", **arrays, y_train=labels, y_test=labels)
        for name, size in (("recipe", batch), ("half", batch // 2)):
            (folder / f"{name}.toml").write_text(RECIPE.format(data=folder / "data.npz", epochs=epochs, batch=size))
        cases = {
            ONE: lambda: speeds[ONE].append(images_per_second(1, folder)),
            TWO: lambda: speeds[TWO].append(images_per_second(2, folder)),
            APART: lambda: speeds[APART].append(apart(folder)),
        }
        in_turn(cases, rounds, warmup=0)
    settings = {"network": "resnet20 (16, 32, 64)", "batch of all ranks": batch, "threads of a rank": 1}
    result = Result("scaling", "One rank and two", settings, threads)
    result.figures = [Figure.of(name, "images/s", values) for name, values in speeds.items()]
    result.figures.append(ratio(f"{APART} / {ONE}", speeds[APART], speeds[ONE]))
    result.goals = [Goal("two ranks / one", ratio("", speeds[TWO], speeds[ONE]), GOAL, at_least=True)]
    if not result.goals[0].met and not quick:
        result.profile = torchrun(2, str(Path(__file__).parent / "rank_profile.py"), str(batch)).strip()
    return result


if __name__ == "__main__":
    main(measure, __doc__, threads=1)
