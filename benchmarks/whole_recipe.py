"""The whole job, distil and prune in 30 steps with fine-tuning: attar against the same recipe glued from libraries.

    python benchmarks/whole_recipe.py            # two minutes on two cores

Both sides read the same file, distil a ResNet-50 into a ResNet-20 and prune it to under 100,000 parameters, training on the
same number of images in batches of 128, and each runs in a process of its own. The schedule is recipes/quick.toml's, much
shortened, so that the fixed costs of attar's 30 cuts (proofs, checkpoints, two evaluations each) weigh more than they do
in earnest. attar runs twice: from an empty view cache, and as a second run (another seed, another student) would, from a
filled one. The peer is benchmarks/glued_recipe.py, with as many DataLoader workers as threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Figure, Goal, Result, Steps, Worker, in_turn, main, ratio

from attar.models import build

GOAL = 8.0
WARM, GLUED = "attar, filled cache", "glued from libraries"
BATCH = 128
FULL = {"train": 8 * BATCH, "test": 500, "epochs": 2, "steps": 30, "batches": 2, "final": 2, "pool": 2}
QUICK = {"train": BATCH, "test": 20, "epochs": 1, "steps": 2, "batches": 1, "final": 1, "pool": 1}
Settings = dict[str, int]


def inputs(folder: Path, settings: Settings) -> None:
    """Random images and a teacher with random weights: what they show does not change what a step costs."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", settings["train"] + settings["test"]), ("test", settings["test"])):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(folder / "data.npz", **arrays)
    torch.manual_seed(0)
    teacher = build("resnet50", stem="stride2", in_channels=1, classes=10)
    torch.save(teacher.state_dict(), folder / "teacher.pt")


def glued(folder: Path, settings: Settings, threads: int) -> Steps:
    from glued_recipe import compress  # here, so that attar's processes do not import torchvision

    torch.set_num_threads(threads)

    def run() -> int:
        schedule = [settings[key] for key in ("epochs", "steps", "batches", "final")]
        return compress(folder / "data.npz", folder / "teacher.pt", *schedule, threads, folder / "student.pt")

    return run


def attar_run(folder: Path, settings: Settings, threads: int, warm: bool) -> Steps:
    os.environ["ATTAR_CACHE"] = str(folder / "cache")
    import attar
    from attar.recipe import check_recipe

    epoch = settings["train"] // BATCH
    training = {"batch": BATCH, "learning_rate": 0.05, "ema": 0.99}
    recipe = check_recipe(
        {
            "name": "whole-recipe",
            "data": {"source": f"npz:{folder / 'data.npz'}", "held_out": settings["test"]},
            "augment": {"crop_padding": 2, "flip": 0.5, "erase": 0.5},
            "teacher": {
                "model": "resnet50",
                "arguments": {"stem": "stride2"},
                "weights": str(folder / "teacher.pt"),
            },
            "student": {"model": "resnet20", "arguments": {"widths": [16, 32, 64]}},
            "distil": {
                "temperature": 4,
                "alpha": 0.9,
                "view_pool": settings["pool"],
                "train": {**training, "epochs": settings["epochs"], "learning_rate": 0.1},
            },
            "prune": {
                "steps": settings["steps"],
                "budget": {"params": 100_000},
                "train": {**training, "epochs": settings["batches"] / epoch},
                "final": {**training, "epochs": settings["batches"] / epoch + settings["final"]},
            },
            "export": {"onnx": False, "pt2": False, "int8": False},
            "compute": {"device": "cpu", "threads": threads},
        }
    )

    def run() -> int:
        shutil.rmtree(folder / "run", ignore_errors=True)
        if not warm:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        return sum(attar.run(recipe, folder / "run")["images_seen"].values())

    return run


def measure(quick: bool, threads: int) -> Result:
    settings, rounds = (QUICK, 1) if quick else (FULL, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs(folder, settings)
        images: dict[str, object] = {}
        with contextlib.ExitStack() as stack:

            def case(name: str, *made: Any) -> Steps:
                worker = stack.enter_context(Worker(made[0], folder, settings, threads, *made[1:]))
                return lambda: images.update({name: worker()})

            cases = {"attar": case("attar", attar_run, False)}
            if not quick:
                cases[WARM] = case(WARM, attar_run, True)
            cases[GLUED] = case(GLUED, glued)
            times = in_turn(cases, rounds, warmup=0)
    assert len(set(images.values())) == 1, f"not the same number of images: {images}"
    shown = {**settings, "batch": BATCH, "images trained on": images["attar"]}
    result = Result("whole_recipe", "The whole recipe", shown, threads)
    result.figures = [Figure.of(name, "s", values) for name, values in times.items()]
    result.figures += [ratio(f"{GLUED} / {WARM}", times[GLUED], times[WARM])] if WARM in times else []
    result.goals = [Goal(f"{GLUED} / attar", ratio("", times[GLUED], times["attar"]), GOAL, at_least=True)]
    return result


if __name__ == "__main__":
    main(measure, __doc__)
