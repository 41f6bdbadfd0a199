"""The whole job, distil and prune in 30 steps with fine-tuning: attar against the same recipe glued from libraries.

    python benchmarks/whole_recipe.py            # five to ten minutes on two cores

Both sides read the same file, distil a ResNet-50 into a ResNet-20 and prune it to under 100,000 parameters, training on the
same number of images in batches of 128, and each runs in a process of its own. The schedule is 8 epochs, 30 times
one and 8 of 1,024 images, a sixteenth of 13.5 epochs of Fashion-MNIST, so that the fixed costs of attar's 30 cuts (proofs,
checkpoints, two evaluations each) weigh more than they do in earnest. The pool has two epochs of views for 46 epochs of
training. attar runs from an empty view cache; as a second run (another seed, another student) would, from a
filled one; and so once more for twice as many images, to show the share of the fixed
costs. The peer is benchmarks/glued_recipe.py, with as many DataLoader workers as threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import Figure, Goal, Result, Steps, Worker, in_turn, main, ratio

from attar.models import build

GOAL = 8.0
LONGER = 2
WARM, LONG, GLUED = "attar, filled cache", "attar, filled cache, twice as long", "glued from libraries"
BATCH = 128
FULL = {"train": 8 * BATCH, "test": 100, "epochs": 8, "steps": 30, "batches": 8, "final": 8, "pool": 2}
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
    torch.set_num_threads(threads)

    def run() -> tuple[int, dict[str, float]]:
        from glued_recipe import compress  # libraries are imported by the job on both sides, and by no other process

        schedule = [settings[key] for key in ("epochs", "steps", "batches", "final")]
        return compress(folder / "data.npz", folder / "teacher.pt", *schedule, threads, folder / "student.pt"), {}

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

    def run() -> tuple[int, dict[str, float]]:
        shutil.rmtree(folder / "run", ignore_errors=True)
        if not warm:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        facts = attar.run(recipe, folder / "run")
        return sum(facts["images_seen"].values()), facts["seconds"]

    return run


def measure(quick: bool, threads: int) -> Result:
    settings = QUICK if quick else FULL
    longer = {**settings, **{key: LONGER * settings[key] for key in ("epochs", "batches", "final")}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs(folder, settings)
        found: dict[str, tuple[int, dict[str, float]]] = {}
        with contextlib.ExitStack() as stack:

            def case(name: str, settings: Settings, make: Callable[..., Steps], *more: bool) -> Steps:
                worker = stack.enter_context(Worker(make, folder, settings, threads, *more))
                return lambda: found.update({name: worker()})

            cases = {"attar": case("attar", settings, attar_run, False)}
            if not quick:
                cases[WARM] = case(WARM, settings, attar_run, True)
                cases[LONG] = case(LONG, longer, attar_run, True)
            cases[GLUED] = case(GLUED, settings, glued)
            times = in_turn(cases, 1, warmup=0)
    images = {name: count for name, (count, _) in found.items()}
    assert images["attar"] == images[GLUED], f"not the same number of images: {images}"
    shown = {**settings, "batch": BATCH, "images trained on": images["attar"]}
    result = Result("whole_recipe", "The whole recipe", shown, threads)
    result.figures = [Figure.of(name, "s", values) for name, values in times.items()]
    result.figures += [Figure.of(name, "images/s", [images[name] / values[0]]) for name, values in times.items()]
    if not quick:
        result.figures.append(ratio(f"{GLUED} / {WARM}", times[GLUED], times[WARM]))
        speeds = [[images[name] / times[name][0]] for name in (LONG, GLUED)]
        result.figures.append(ratio(f"images/s, {LONG} / {GLUED}", *speeds))
        further = (images[LONG] - images[WARM]) / (times[LONG][0] - times[WARM][0])
        result.figures.append(Figure.of("attar, filled cache, the further images of these", "images/s", [further]))
        result.profile = profile(times["attar"][0], times[WARM][0], images["attar"], further)
    result.goals = [Goal(f"{GLUED} / attar", ratio("", times[GLUED], times["attar"]), GOAL, at_least=True)]
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in found["attar"][1].items())
    result.notes = [f"attar's stages: {stages}; the rest is checks, capture, export and report."]
    return result


def profile(cold: float, warm: float, images: int, further: float) -> str:
    """Where attar's seconds went, from the three runs."""
    training = images / further
    fixed = "whatever the length: imports, capture, the teacher's weights read and written, 30 cuts with their proofs,"
    more = "kernels for the shapes after each cut, 60 evaluations, checkpoints, report"
    lines = [
        f"attar, {cold:.1f} s:",
        f"{training:6.1f} s  training on {images:,} images, at the speed of the longer run's further images",
        f"{cold - warm:6.1f} s  the teacher on the views of the pool, once",
        f"{warm - training:6.1f} s  {fixed}",
        f"{'':8}  {more}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(measure, __doc__)
