"""The stage prune: cut step by step under a falling budget, prove every cut, fine-tune after it."""

from __future__ import annotations

from typing import Any

import torch

from attar.pipeline.session import Session
from attar.pipeline.stage_loop import StageLoop
from attar.pipeline.teaching import objective
from attar.prune import Pruner, describe, reshape
from attar.recipe import Prune, Training
from attar.train import TrainState

KEPT = "kept/"
"""Prefix of the engine's own tensors in checkpoints."""


def make_pruner(session: Session) -> Pruner:
    """The engine on a freshly built student, as the recipe sets it up.

    Raises:
        ValueError: a name in the recipe's [prune] table is unknown.
    """
    settings = session.recipe.prune
    assert settings is not None
    if session.captured:
        return session.captured.pop()
    return Pruner(
        session.build(session.recipe.student),
        session.example,
        importance=settings.importance,
        allocation=settings.allocation,
        protect=settings.protect,
        round_to=settings.round_to,
    )


def check_budget(session: Session) -> None:
    """See that the budget can be met, and keep the engine for the stage.

    Raises:
        ValueError: it cannot; with the smallest that can.
    """
    settings = session.recipe.prune
    assert settings is not None
    pruner = make_pruner(session)
    pruner.minimum(settings.budget)
    session.captured.append(pruner)


def prune(session: Session) -> None:
    """All steps of pruning; goes on in the middle of any of them."""
    settings = session.recipe.prune
    assert settings is not None
    weights, distilled = session.folder.result("distil")
    pruner = make_pruner(session)
    limits = settings.budget.schedule(pruner.cost().as_dict(), settings.steps)
    resumed = session.folder.resume("prune")
    if resumed is None:
        session.folder.begin("prune", "distil")
        pruner.model.load_state_dict(weights)
        state = TrainState(pruner.model, session.machine)
        state.position.epoch = distilled["epoch"]  # go on with views that the student has not seen
        first, pending = 1, None
        frontier = [{"step": 0, **_facts(pruner), "held_out": distilled["held_out"]}]
    else:
        tensors, numbers = resumed
        pruner.restore(_engine_state(tensors))
        first, pending, frontier = numbers["step"], numbers["pending"], numbers["frontier"]
        state = TrainState(pruner.model, session.machine)
        state.load(tensors, numbers["position"], _training(settings, first))

    loop = StageLoop(session, "prune", state, _work(session, settings))
    goal = objective(session)
    for step in range(first, settings.steps + 1):
        if pending is None:
            pending = _cut(loop, pruner, limits[step - 1], step)
        loop.numbers = {"step": step, "frontier": frontier, "pending": pending}
        loop.tensors = {KEPT + name: mask for name, mask in pruner.state().items()}
        loop.save()
        label = f"step {step}/{settings.steps}"
        held_out = loop.fit(_training(settings, step), goal, label, session.recipe.distil.view_pool)
        frontier.append({**pending, "held_out": held_out})
        _tell(session, frontier[-1], label)
        pending = None
    surgery = describe(pruner.model, session.build(session.recipe.student))
    with state.averaged() as final:
        session.folder.finish(
            "prune",
            final.state_dict(),
            {
                "images": state.position.images,
                "frontier": frontier,
                "held_out": frontier[-1]["held_out"],
                "surgery": surgery,
            },
        )


def pruned_student(session: Session) -> torch.nn.Module:
    """The student as the finished stage `prune` left it."""
    weights, numbers = session.folder.result("prune")
    model = reshape(session.build(session.recipe.student), numbers["surgery"])
    model.load_state_dict(weights)
    return model


def _cut(loop: StageLoop, pruner: Pruner, limits: dict[str, float], step: int) -> dict[str, Any]:
    """One cut, proved by the engine; moments and moving average follow. Returns what the frontier keeps of it."""
    cut = pruner.step(limits)
    loop.state.cut(pruner.model, cut.kept)
    return {
        "step": step,
        "limits": limits,
        **_facts(pruner),
        "removed": sum(before - after for before, after in cut.widths.values()),
        "proof": cut.proof,
        "held_out_before": loop.held_out(),
    }


def _facts(pruner: Pruner) -> dict[str, Any]:
    return {"cost": pruner.cost().as_dict(), "widths": pruner.widths()}


def _engine_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(KEPT): mask for name, mask in tensors.items() if name.startswith(KEPT)}


def _training(settings: Prune, step: int) -> Training:
    return settings.final if settings.final is not None and step == settings.steps else settings.train


def _work(session: Session, settings: Prune) -> float:
    return sum(session.work(_training(settings, step)) for step in range(1, settings.steps + 1))


def _tell(session: Session, point: dict[str, Any], label: str) -> None:
    """One line about a finished step."""
    if point["held_out"] is None:
        accuracies = ""
    else:
        accuracies = f", held-out accuracy {point['held_out_before']:.2%} -> {point['held_out']:.2%}"
    session.watcher.note(
        f"prune, {label}: {point['removed']} units cut, {point['cost']['params']:,} parameters{accuracies}, "
        f"proof {point['proof']:.1e}"
    )
