"""The stages export and report: the artifact from the last weights, then the one reading of the test images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from attar import artifact
from attar.pipeline.control_facts import control_facts
from attar.pipeline.exporting import EAGER, add_views, faults, judged, wanted_views
from attar.pipeline.folder import TEST
from attar.pipeline.int8 import calibration, mend_int8
from attar.pipeline.pruning import pruned_student, surgery_record
from attar.pipeline.reading import accuracy_facts, read_test
from attar.pipeline.session import Session
from attar.prune import measure_latency
from attar.recipe import Recipe
from attar.report import (
    confusion_facts,
    frontier_plot,
    mcnemar,
    mistake_facts,
    report_html,
    report_json,
    report_markdown,
    summary,
)
from attar.report.costs import budget_figure, budget_lines

GOLDEN_IMAGES = 16


def export(session: Session) -> None:
    """Save the artifact: what is shipped, loaded back and counted. The stage's own result holds the counts."""
    recipe = session.recipe
    model = _student(session)
    golden = session.data.images[session.some_samples(GOLDEN_IMAGES)]
    artifact.save(
        session.folder.artifact,
        model,
        session.spec(recipe.student),
        input_size=session.data.image_shape,
        mean=session.mean,
        std=session.std,
        golden=golden,
        surgery=_surgery(session),
        class_names=session.data.class_names,
        budget=budget_limits(session),
    )
    tensors, numbers = _held_out(session)
    numbers |= _latency(session)
    views = add_views(
        session.folder.artifact,
        wanted_views(recipe.export),
        calibration(session),
        session.own_builder,
        session.watcher.note,
    )
    held_out = numbers["held_out"]
    mend_int8(session, views, None if held_out is None else held_out["accuracy"], lambda: _student(session))
    session.folder.finish("export", tensors, {"artifact": session.folder.artifact.name, "views": views, **numbers})


def _held_out(session: Session) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What the saved artifact says of the held-out images: what comparisons go by before the test images are read."""
    samples = session.split.held_out
    if len(samples) == 0:
        return {}, {"held_out": None}
    labels = session.data.labels[samples]
    model = artifact.load(session.folder.artifact, allow=session.own_builder)
    found = artifact.evaluate(model, session.data.images[samples], labels)
    return {"labels": labels.clone(), "predictions": found.predictions}, {
        "held_out": accuracy_facts(found.correct, found.images)
    }


def _latency(session: Session) -> dict[str, Any]:
    """What the saved artifact takes on the CPU, where seconds are limited; told with the report, held or not."""
    settings = session.recipe.prune
    if settings is None or settings.budget.latency is None:
        return {}
    model = artifact.load(session.folder.artifact, allow=session.own_builder)
    found = asdict(measure_latency(model, session.example, settings.budget.batch, settings.budget.threads))
    return {"latency": {**found, "held": found["seconds"] <= budget_limits(session)["latency"]}}


def report(session: Session) -> dict[str, Any]:
    """Write the report into the artifact; returns its facts. The test images are read the first time only."""
    facts = gather(session)
    content: dict[str, bytes | str | Path] = {"report.json": report_json(facts)}
    plot = frontier_plot(facts)
    if plot is not None:
        content["frontier.svg"] = plot
    content["report.md"] = report_markdown(facts, "frontier.svg" if plot is not None else None)
    test = session.folder.read_json(TEST)
    predictions = test["predictions"]
    content["predictions.json"] = json.dumps(predictions) + "\n"
    content["report.html"] = report_html(
        facts,
        network=artifact.load(session.folder.artifact, allow=session.own_builder),
        images=session.data.test_images,
        predictions=predictions,
        confidence=test.get("confidence"),
        weights=session.folder.artifact / EAGER,
        class_names=session.data.class_names,
    )
    artifact.write_files(session.folder.artifact, content)
    return facts


def not_held(recipe: Recipe, facts: dict[str, Any]) -> list[str]:
    """What the recipe insists on and the finished run does not give, in words: a view, or a limit of the budget."""
    wanted = wanted_views(recipe.export)
    views = [f"{row['name']} {fault}" for row in facts["views"] if wanted.get(row["name"]) for fault in faults(row)]
    limits = [
        f"budget {line.kind} <= {budget_figure(line.kind, line.limit)} MISSED with {budget_figure(line.kind, line.used)}"
        for line in budget_lines(facts)
        if line.verdict == "MISSED"
    ]
    return views + limits


def gather(session: Session) -> dict[str, Any]:
    """Everything that the report says, as plain data."""
    folder, recipe = session.folder, session.recipe
    model = artifact.load(folder.artifact, allow=session.own_builder)
    description = model.artifact
    assert isinstance(description, artifact.Description)
    test = read_test(session, model)
    layers = summary(model, session.data.image_shape)
    record = folder.read_json("run.json")
    trained, rounded = (
        {stage: folder.numbers(stage) for stage in stages if folder.finished(stage)}
        for stages in (("teach", "distil", "prune"), ("int8",))
    )
    frontier = trained["prune"]["frontier"] if recipe.prune is not None else []
    exported = folder.numbers("export")
    return {
        "format": 1,
        "name": recipe.name,
        "test": {name: test[name] for name in ("student", "teacher") if name in test},
        "test_read": test["read"],
        "against_teacher": _against_teacher(test["predictions"]),
        "confusion": confusion_facts(test["predictions"], session.data.class_names),
        "mistakes": mistake_facts(test["predictions"], test.get("confidence")),
        "budget": description.budget,
        **({"budget_latency": exported["latency"]} if "latency" in exported else {}),
        "cost": {
            "before": frontier[0]["cost"] if frontier else description.counts,
            "after": description.counts,
            **test.get("cost", {}),
        },
        "latency": test.get("latency", {}),
        "frontier": frontier,
        "held_out": {stage: numbers["held_out"] for stage, numbers in trained.items()},
        "images_seen": {stage: numbers["images"] for stage, numbers in {**trained, **rounded}.items()},
        "seconds": {stage: numbers.get("seconds") for stage, numbers in {**trained, **rounded}.items()},
        "peak_memory": {
            stage: numbers["peak_memory"] for stage, numbers in trained.items() if "peak_memory" in numbers
        },
        "views": judged(exported.get("views", []), test.get("views", {})),
        "controls": control_facts(folder.path, test),
        "layers": layers.to_dict(),
        "summary": str(layers),
        "learning_curves": folder.metrics(),
        "mean": session.mean,
        "std": session.std,
        **record,
    }


def _against_teacher(predictions: dict[str, list[int]]) -> dict[str, Any] | None:
    """McNemar's test of the student (first) and its teacher; None where the teacher's predictions are not known."""
    if "teacher" not in predictions:
        return None
    right = [[a == b for a, b in zip(predictions["labels"], predictions[who])] for who in ("student", "teacher")]
    return asdict(mcnemar(*right))


def budget_limits(session: Session) -> dict[str, float]:
    """The budget's limits as absolute figures: those of the last cut."""
    if session.recipe.prune is None:
        return {}
    limits: dict[str, float] = session.folder.numbers("prune")["frontier"][-1]["limits"]
    return limits


def _surgery(session: Session) -> dict[str, Any] | None:
    """How the shipped network was cut, as `attar.artifact.save` wants it."""
    if session.recipe.prune is not None:
        return surgery_record(session)
    shape = session.recipe.student.shape
    return artifact.describe(shape).surgery if shape is not None else None


def _student(session: Session) -> torch.nn.Module:
    """The network that ships, as training left it."""
    return pruned_student(session) if session.recipe.prune is not None else _distilled_student(session)


def _distilled_student(session: Session) -> torch.nn.Module:
    model = session.build(session.recipe.student)
    model.load_state_dict(session.folder.result("distil")[0])
    return model
