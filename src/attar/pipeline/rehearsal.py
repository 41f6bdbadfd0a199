"""The dry run of a recipe: all that a run checks, the final shape, and how long training would take here. Nothing is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from attar.distil import from_labels
from attar.pipeline.plan import Planned, planned
from attar.pipeline.pruning import gradients, make_pruner, work
from attar.pipeline.ranks import refuse_ranks
from attar.pipeline.run import Given, looked_at, same_networks
from attar.pipeline.session import Session, still_to_teach
from attar.pipeline.teaching import initial
from attar.pipeline.watch import Silent, Watcher
from attar.recipe import Prune, Recipe, Training
from attar.recipe.types import Teacher
from attar.train import Progress, TrainState, fit, predict, step, steps_for

WARM_UP, TIMED = 2, 4
"""Steps before the clock starts, in which kernels are chosen, and those that count; see `_timing` for a GPU."""
LOOKS = 256
"""Images that the teacher is timed with."""
OUTPUTS = "the teacher's outputs"
_ORDER = ("teach", OUTPUTS, "distil", "prune")


@dataclass
class Rehearsal:
    """What a run would do."""

    facts: dict[str, Any]
    """As the run would record them: data, split, machine."""
    images: dict[str, float] = field(default_factory=dict)
    """Stage -> images that training will see in it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What takes time -> estimated seconds on this machine. Evaluations, cuts with their proofs, and exports come on top."""
    planned: Planned | None = None
    """The last step's cut, done at once on the student as it is now."""
    ranked_by: str = "random weights"
    """Which weights these are: `random weights`, `student.weights` or `the distilled weights`."""


def rehearse(recipe: Recipe, out: str | Path, watcher: Watcher | None = None, *, data: Given = None) -> Rehearsal:
    """Check a recipe as a run in the folder `out` would, plan its final shape, and time a few steps; trains nothing.

    Stages that the folder has finished are left out. The folder is neither made nor changed.

    Raises:
        RecipeError, DataError, RunError: as `attar.run`, before it computes anything.
    """
    refuse_ranks("attar run --dry-run")
    session, facts = looked_at(recipe, out, watcher or Silent(), data)
    found = Rehearsal(facts)
    if recipe.prune is not None and not session.folder.finished("prune"):
        _rehearse_pruning(session, recipe.prune, found)
    if recipe.distil.train is not None and not session.folder.finished("distil"):
        found.images["distil"] = session.work(recipe.distil.train)
        each = _seconds_an_image(session, session.build(recipe.student), recipe.distil.train)
        found.seconds["distil"] = found.images["distil"] * each
    if recipe.teacher_network is not None:
        _rehearse_teacher(session, recipe.teacher_network, found)
    found.seconds = {name: found.seconds[name] for start in _ORDER for name in found.seconds if name.startswith(start)}
    return found


def _rehearse_pruning(session: Session, settings: Prune, found: Rehearsal) -> None:
    pruner = make_pruner(session)
    if session.folder.finished("distil"):
        with same_networks(session):
            pruner.model.load_state_dict(session.folder.result("distil")[0])
        found.ranked_by = "the distilled weights"
    elif session.recipe.student.weights is not None:
        pruner.model.load_state_dict(initial(session, session.recipe.student).state_dict())
        found.ranked_by = "student.weights"
    session.machine.place(pruner.model)  # where gradients are computed; cuts are planned and proved on the CPU
    context = gradients(session, pruner, from_labels)()
    pruner.model.to("cpu")
    found.planned = planned(pruner, settings.budget, context and context.on_cpu())
    images = work(session, settings)
    found.images["prune"] = sum(images)
    whole = _seconds_an_image(session, session.build(session.recipe.student), settings.train)
    small = _seconds_an_image(session, pruner.model, settings.train)
    # sparse learning has the whole network, the last step the final one; between them it shrinks
    before = len(images) - settings.steps
    between = sum(images[before:-1])
    found.seconds["prune"] = sum(images[:before]) * whole + between * (whole + small) / 2 + images[-1] * small


def _rehearse_teacher(session: Session, teacher: Teacher, found: Rehearsal) -> None:
    """Its looks at the student's views, each of a pool once, and its training."""
    seen = sum(found.images.values())
    pool = session.recipe.distil.view_pool * len(session.split.train)
    if seen and session.recipe.distil.alpha > 0:
        found.seconds[OUTPUTS] = (min(seen, pool) if pool else seen) * _seconds_a_look(session, teacher)
    if session.folder.finished("teach"):
        return
    for _, stage, network in still_to_teach(teacher):
        if network.train is not None and not session.folder.finished(stage):
            found.images[stage] = session.work(network.train)
            each = _seconds_an_image(session, session.build(network), network.train, taught=True)
            found.seconds[stage] = found.images[stage] * each


def _seconds_a_look(session: Session, teacher: Teacher) -> float:
    """Seconds that the teacher takes for each image."""
    model, samples = session.machine.place(session.build(teacher)), session.some_samples(LOOKS)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            predict(model, session.views, samples, session.machine)
        times.append(time.perf_counter() - start)
    return median(times[1:]) / len(samples)


def _seconds_an_image(session: Session, model: torch.nn.Module, training: Training, taught: bool = False) -> float:
    """Seconds for each image of a step of the loop; the model is spoilt by it."""
    samples = session.split.train
    batch = min(training.batch, len(samples))
    before, steps = _timing(session.machine.device)
    epochs = steps / max(1, len(samples) // training.batch)
    # a rate that moves nothing: fresh weights at the full rate, without the warm-up, might break down
    short = training.model_copy(update={"epochs": epochs, "learning_rate": 1e-9, "warmup": 0.0})
    assert steps_for(short, len(samples)) == steps
    read: list[tuple[int, float]] = []

    def on_step(progress: Progress) -> None:
        read.append((progress.step, time.perf_counter()))

    views = session.views if taught else session.student_views
    fit(TrainState(model, session.machine), from_labels, views, samples, short, on_step=on_step)
    timed = [point for point in read if point[0] >= before]
    return median((end - start) / (last - first) for (first, start), (last, end) in pairwise(timed)) / batch


def _timing(device: str) -> tuple[int, int]:
    """Steps before the clock starts, and in all: a GPU records its step, then is looked at now and then."""
    if device == "cpu":
        return WARM_UP, WARM_UP + TIMED
    before = step.WARM_UP + step.AHEAD
    return before, before + 3 * step.AHEAD
