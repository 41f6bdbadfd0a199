"""The stages teach and distil: both train one network from scratch, with another objective."""

from __future__ import annotations

from pathlib import Path

import torch

from attar.distil import FromTeacher, Objective, find_loss, from_labels
from attar.pipeline.outputs import teacher_outputs
from attar.pipeline.session import Part, Session, parts_of
from attar.pipeline.stage_loop import StageLoop
from attar.pipeline.weights import load_weights
from attar.recipe import Training
from attar.recipe.types import Network, Teacher
from attar.train import TrainState


def teach(session: Session) -> None:
    """Train the teacher on labels, or take the weights that the recipe names."""
    teacher = session.recipe.teacher_network
    assert teacher is not None
    if teacher.members and teacher.weights is None:
        _teach_members(session, teacher)
    else:
        _teach(session, Part("teacher", "teach", teacher))


def _teach(session: Session, part: Part, number: int = 0) -> None:
    if part.network.weights is not None:
        _take(session, part, number)
        return
    assert part.network.train is not None
    train_network(session, part.stage, part.network, part.network.train, from_labels, number=number)


def _take(session: Session, part: Part, number: int) -> None:
    """Keep a teacher that the user brought, and tell how good it is: hours of imitating a bad one are lost."""
    assert part.network.weights is not None
    model = session.build(part.network, number)
    load_weights(model, Path(part.network.weights), f"{part.place}.weights")
    held_out = session.held_out_accuracy(session.machine.place(model))
    session.folder.finish(part.stage, model.state_dict(), {"images": 0, "held_out": held_out})
    if held_out is None:
        return
    session.watcher.note(f"{part.stage}: the weights that you gave, held-out accuracy {held_out:.2%}")
    if held_out < 2 / session.data.classes and session.data.classes > 2:
        session.watcher.note(
            f"the teacher hardly does better than guessing among {session.data.classes} classes: were its images "
            "normalised otherwise (data.mean, data.std; --mean, --std), or its classes in another order than "
            f"{', '.join(session.data.class_names[:3])}, ...?"
        )


def _teach_members(session: Session, teacher: Teacher) -> None:
    """Teach the members of an ensemble one after the other, each a stage of its own, and keep them as one network."""
    folder, parts = session.folder, parts_of(teacher)
    for number, part in enumerate(parts):
        if folder.finished(part.stage):
            continue
        session.watcher.note(f"{part.stage} of {len(parts)}: {part.network.model}")
        _teach(session, part, number)
    results = [folder.result(part.stage) for part in parts]
    together = {
        f"members.{number}.{name}": t for number, (tensors, _) in enumerate(results) for name, t in tensors.items()
    }
    ensemble = session.build(teacher)
    ensemble.load_state_dict(together)
    totals = {key: sum(numbers[key] for _, numbers in results) for key in ("images", "seconds")}
    held_out = session.held_out_accuracy(session.machine.place(ensemble))
    folder.finish("teach", together, {"held_out": held_out, **totals})
    if held_out is not None:
        session.watcher.note(f"teach: the mean of {len(parts)}, held-out accuracy {held_out:.2%}")


def distil(session: Session) -> None:
    """Train the student at full size, from the teacher's outputs and the labels or from labels alone, or take its weights."""
    recipe = session.recipe
    if recipe.distil.train is None:
        model = session.machine.place(initial(session, recipe.student))
        held_out = session.held_out_accuracy(model)
        session.folder.finish("distil", model.state_dict(), {"images": 0, "epoch": 0, "held_out": held_out})
        return
    train_network(session, "distil", recipe.student, recipe.distil.train, objective(session), recipe.distil.view_pool)


def train_network(
    session: Session,
    stage: str,
    network: Network,
    training: Training,
    goal: Objective,
    view_pool: int = 0,
    number: int = 0,
) -> None:
    """Train a fresh network to the end of `training`, or go on where an earlier start stopped; keep its weights."""
    state = TrainState(initial(session, network, number), session.machine)
    resumed = session.folder.resume(stage)
    if resumed is None:
        session.folder.begin(stage)
    else:
        tensors, numbers = resumed
        state.load(tensors, numbers["position"], training)
    loop = StageLoop(session, stage, state, session.work(training))
    held_out = loop.fit(training, goal, view_pool=view_pool)
    with state.averaged() as model:
        session.folder.finish(
            stage,
            model.state_dict(),
            {"images": state.position.images, "epoch": state.position.epoch + 1, "held_out": held_out},
        )


def initial(session: Session, network: Network, number: int = 0) -> torch.nn.Module:
    """The network with its first weights: fresh for the seed, or from the file that the recipe names."""
    model = session.build(network, number)
    if network.weights is not None:
        load_weights(model, Path(network.weights), "student.weights")
    return model


def objective(session: Session) -> Objective:
    """What the student learns from: the teacher on the same views, or labels."""
    settings = session.recipe.distil
    if session.recipe.teacher is None or settings.alpha == 0:
        return from_labels
    loss = find_loss(settings.loss, session.data.classes, settings.mixup > 0)
    return FromTeacher(teacher_outputs(session), settings.temperature, settings.alpha, loss)
