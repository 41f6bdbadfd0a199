"""report.html: one page for people, whole in one file; it asks nothing of any network.

What is written here can be read without a script; the script (assets/page.js) draws the plots and runs the compressed
network (assets/network.js). The page's own policy forbids every request and every script but these two.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.report import sections
from attar.report.markup import Child, Markup, data, element, join, section
from attar.report.mistakes import Predictions, confusion_facts, mistake_facts
from attar.report.operations import NotRunnableError
from attar.report.program import to_program
from attar.report.samples import pictures, trial_samples
from attar.report.write import verdict_line

Facts = dict[str, Any]
LARGEST = 3_000_000
"""Bytes of a page; what does not fit is left out, and the page says so."""
CURVE_POINTS = 300
"""Points of a stage's learning curves."""


def report_html(
    facts: Facts,
    *,
    network: nn.Module | None = None,
    images: Tensor | None = None,
    predictions: Predictions | None = None,
    confidence: Mapping[str, Sequence[float]] | None = None,
    weights: Path | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """The facts as one self-contained page.

    Args:
        facts: what `attar.pipeline.finish.gather` puts together; parts that are missing are left out.
        network: the compressed network, for the page to run; takes images normalised by the facts' mean and std.
        images: the test images, uint8 (N, C, H, W).
        predictions: for each test image its class: `labels`, `student` and perhaps `teacher`.
        confidence: by the same names, the probability that each network gives the class that it predicts.
        weights: the file with the network's weights, beside which the page will lie: a network that is too large for the
            page is run there once the reader has chosen that file.
        class_names: in the order of the logits; numbers where they are missing.
    """
    given = Given(facts, network, images, predictions, confidence or {}, weights, list(map(str, class_names)))
    page = assemble(given)
    if len(page.encode()) > LARGEST:
        small = replace(given, network=None, images=None)
        page = assemble(small, "the page would be larger than 3 MB with it")
    return page


@dataclass(frozen=True)
class Given:
    """What a page is made of."""

    facts: Facts
    network: nn.Module | None
    images: Tensor | None
    predictions: Predictions | None
    confidence: Mapping[str, Sequence[float]]
    weights: Path | None
    class_names: list[str]


def assemble(given: Given, reason: str = "") -> str:
    """The page with all of its parts; `reason` says why it does not run the network."""
    facts, predictions = given.facts, given.predictions
    confusion = confusion_facts(predictions, given.class_names) if predictions else None
    content: dict[str, Any] = {
        "classes": given.class_names or (confusion or {}).get("classes", []),
        "frontier": frontier_data(facts),
        "curves": curves(facts),
    }
    wrong: dict[str, Any] | None = None
    if given.images is not None and predictions is not None:
        wrong = mistake_facts(predictions, given.confidence)
        wrong["shown"] = pictures(wrong["shown"], given.images)
        if given.network is not None:
            form = normalisation(facts)
            try:
                content["program"] = program(given, form)
                content["trials"] = trial_samples(given.network, given.images, form, predictions, given.confidence)
            except NotRunnableError as error:
                reason = str(error)
    body: list[Child] = [
        sections.verdict(facts),
        trial(content.get("program"), reason),
        frontier(facts),
        learning(content["curves"]),
        sections.confusion(confusion) if confusion else None,
        sections.mistakes(wrong, content["classes"]) if wrong else None,
        sections.proof(facts),
        sections.views(facts),
        sections.origin(facts),
    ]
    return document(facts, join(body), content)


def program(given: Given, form: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The network for the page's interpreter, and of a large one the file that holds its weights."""
    assert given.network is not None and given.images is not None
    if (channels := given.images.shape[1]) not in (1, 3):
        raise NotRunnableError(f"its images have {channels} channels, and the browser's pictures are grey or RGB")
    shift, scale = (values.flatten().tolist() for values in form)
    made = to_program(given.network, given.images.shape[1:], shift, scale, beside=given.weights is not None)
    plain = made.to_dict()
    if given.weights is not None and len(made.inside) < len(made.constants):
        digest = hashlib.sha256(given.weights.read_bytes()).hexdigest()
        plain["file"] = {"name": given.weights.name, "bytes": given.weights.stat().st_size, "sha256": digest}
    return plain


def document(facts: Facts, body: Markup, content: dict[str, Any]) -> str:
    """The file: policy, style, body, data and script."""
    script = "\n".join([asset("network.js"), asset("page.js")])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = [
        Markup('<meta charset="utf-8">'),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="description", content=verdict_line(facts)),
        element("title", f"{facts['name']}: attar report"),
        Markup(f"<style>{asset('page.css')}</style>"),
    ]
    main = element("main", body)
    parts = [element("head", head), element("body", main, data("data", content), Markup(f"<script>{script}</script>"))]
    return f"<!doctype html>\n{element('html', parts, lang='en')}\n"


def asset(name: str) -> str:
    """A file of the page, as it lies beside this module."""
    return files("attar.report").joinpath("assets", name).read_text(encoding="utf-8")


def normalisation(facts: Facts) -> tuple[Tensor, Tensor]:
    """Shift and scale of pixels 0..255, float32 (C, 1, 1): the arithmetic of the artifact's own input."""
    shift = torch.tensor([255 * value for value in facts["mean"]]).view(-1, 1, 1)
    return shift, torch.tensor([1 / (255 * value) for value in facts["std"]]).view(-1, 1, 1)


def frontier_data(facts: Facts) -> dict[str, Any]:
    """The steps for the plot; the groups' names once, their widths as lists."""
    points = facts["frontier"]
    groups = list(points[0].get("widths", {})) if points else []
    steps = [
        {
            "step": point["step"],
            "cost": point["cost"],
            "widths": [point.get("widths", {}).get(group, 0) for group in groups],
            "before": point.get("held_out_before"),
            "after": point.get("held_out"),
            "removed": point.get("removed"),
            "proof": point.get("proof"),
        }
        for point in points
    ]
    return {"groups": groups, "steps": steps, "budget": facts["budget"]}


def curves(facts: Facts) -> list[dict[str, Any]]:
    """For each stage its learning curves, thinned to what a screen can show."""
    stages: dict[str, list[Facts]] = {}
    for line in facts.get("learning_curves", []):
        stages.setdefault(str(line.get("stage", "")), []).append(line)
    found = []
    for name, lines in stages.items():
        every = -(-len(lines) // CURVE_POINTS)
        kept = [line for i, line in enumerate(lines) if i % every == 0 or i == len(lines) - 1]
        values = {key: [line.get(key) for line in kept] for key in ("images", "loss", "accuracy", "held_out", "label")}
        found.append({"stage": name, **values})
    return found


def trial(program: dict[str, Any] | None, reason: str) -> Markup | None:
    """The place where the page runs the network."""
    if program is None:
        why = f"This page does not run the network: {reason}." if reason else None
        return section("trial", "Try it", element("p", why)) if why else None
    choose = "Choose a test image, or drop in one of your own."
    text = f"This page holds the compressed network and runs it here, in your browser; nothing leaves your device. {choose}"
    weights: Child = None
    if "file" in program:
        file = program["file"]
        text = (
            "This page runs the compressed network here, in your browser; nothing leaves your device. Its weights are too "
            f"large for the page ({file['bytes'] / 1e6:.1f} MB): first give it the file that lies beside it. Then "
            f"{choose[0].lower()}{choose[1:]}"
        )
        weights = element(
            "label",
            element("b", f"Choose {file['name']}"),
            element("span", " or drop it here", id="weights-state"),
            element("input", type="file", accept=".safetensors", id="weights-file"),
            class_="drop",
            id="weights",
        )
    drop = element(
        "label",
        element("b", "Drop an image here"),
        element("span", " or tap to choose one"),
        element("input", type="file", accept="image/*", id="file"),
        class_="drop",
        id="drop",
    )
    swap = element(
        "label", element("input", type="checkbox", id="swap"), " swap light and dark (of an image of your own)"
    )
    stage = element(
        "div",
        element("canvas", id="seen", width=1, height=1, aria_label="What the network sees"),
        element("div", id="answer", aria_live="polite"),
        class_="stage",
    )
    return section(
        "trial",
        "Try it",
        element("p", text),
        weights,
        element("div", id="trials", class_="trials"),
        element("div", drop, swap, id="own"),
        stage,
        element("p", id="check", class_="note"),
        element("noscript", element("p", "The network runs only where scripts do.")),
    )


def frontier(facts: Facts) -> Markup | None:
    """Accuracy against cost, and the widths of the chosen step beside those of the start."""
    if len(facts["frontier"]) < 2:
        return section("frontier", "Frontier", element("p", "This run pruned nothing, so there is no frontier."))
    text = "Each point is a step of pruning. Hover, tap or use the arrow keys to see a step and its widths."
    return section(
        "frontier",
        "Frontier",
        element("p", text),
        element("div", id="frontier-controls", class_="controls"),
        element("div", id="frontier-plot", class_="plot"),
        element("div", id="frontier-step", class_="step", aria_live="polite"),
        element("h3", "Widths per layer"),
        element("div", id="widths", class_="widths"),
    )


def learning(found: list[dict[str, Any]]) -> Markup | None:
    """Where the script draws the learning curves."""
    if not found:
        return None
    return section("learning", "Learning curves", element("div", id="curves", class_="curves"))
