"""The one reading of the test images, and what is measured along with it: kept in the run folder, never done again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from attar import artifact
from attar.artifact.replay import count_macs
from attar.pipeline.exporting import views_on_test
from attar.pipeline.folder import TEST
from attar.pipeline.outputs import fresh_teacher, teacher_on_test
from attar.pipeline.session import Session
from attar.prune.saved import saved_bytes
from attar.report import wilson_interval

LATENCY_ROUNDS, LATENCY_SECONDS = 5, 0.04
"""How often each network's latency is measured, in turn with the others, and about how long each time."""


def read_test(session: Session, model: nn.Module) -> dict[str, Any]:
    """What the test images say of the artifact's network, its views and its teacher; read the first time only.

    Args:
        session: the run.
        model: the network as loaded from the artifact.

    Returns:
        Accuracies of `student` and `teacher`, the time of the reading, `predictions` (class for each image) with the
        `confidence` in each, `views`, and of every network what it costs and takes: `cost`, `latency`.
    """
    file = session.folder.path / TEST
    if file.exists():
        return session.folder.read_json(TEST)
    images, labels = session.data.test_images, session.data.test_labels
    student = artifact.evaluate(model, images, labels)
    found: dict[str, Any] = {
        "read": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "student": accuracy_facts(student.correct, student.images),
        "predictions": {"labels": labels.tolist(), "student": student.predictions.tolist()},
        "confidence": {"student": shares(student.confidences)},
    }
    views = session.folder.numbers("export").get("views", [])
    found["views"] = views_on_test(session.folder.artifact, views, student, images, labels)
    logits = teacher_on_test(session)
    if logits is not None:
        sure, predictions = logits.softmax(1).amax(1), logits.argmax(1)
        found["teacher"] = accuracy_facts(int((predictions == labels).sum()), len(labels))
        found["predictions"]["teacher"] = predictions.tolist()
        found["confidence"]["teacher"] = shares(sure)
    found |= _costs(session, model)
    session.folder.write_json(TEST, found)
    return found


def accuracy_facts(hits: int, n: int) -> dict[str, Any]:
    """Hits, images, their share, and Wilson's interval."""
    return {"hits": hits, "n": n, "accuracy": hits / n, "interval": wilson_interval(hits, n)}


def shares(values: torch.Tensor) -> list[float]:
    """To four decimals, as JSON says them."""
    return [round(value, 4) for value in values.double().tolist()]


def _costs(session: Session, model: nn.Module) -> dict[str, Any]:
    """The teacher's counts, and how long each network takes for one image in torch, on one thread of the CPU.

    All are measured here and in the same way, so that their ratio means something; in milliseconds, the least of some
    medians, as nothing makes a network faster than it is.
    """
    example = torch.zeros(1, *session.data.image_shape)
    networks = {"after": model, **dict(_others(session))}
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(LATENCY_ROUNDS):  # in turn: what else the machine does then slows one as much as the other
        for name, network in networks.items():
            taken[name].append(_milliseconds(network, example))
    cost: dict[str, Any] = {}
    if (teacher := networks.get("teacher")) is not None:
        counted = sum(parameter.numel() for parameter in teacher.parameters())
        cost["teacher"] = {"params": counted, "macs": count_macs(teacher, example), "bytes": saved_bytes(teacher)}
    return {"cost": cost, "latency": {name: min(times) for name, times in taken.items()}}


def _others(session: Session) -> Iterator[tuple[str, nn.Module]]:
    """The networks that the artifact is held against, with fresh weights: what they hold costs nothing."""
    recipe = session.recipe
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if recipe.prune is not None:
            yield "before", session.build(recipe.student).eval()
        if (teacher := fresh_teacher(session)) is not None:
            yield "teacher", teacher


def _milliseconds(network: nn.Module, example: torch.Tensor) -> float:
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = network(images)
        return found

    return 1e3 * artifact.seconds_per_batch(run, example, seconds=LATENCY_SECONDS)
