"""report.html: one page for people, whole in one file; it asks nothing of any network.

What is written here can be read without a script; the script (assets/page.js) draws the plots and runs the compressed
network (assets/network.js). The page's own policy forbids every request and every script but these two.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from attar.report import sections
from attar.report.markup import Child, Markup, data, element, join, section
from attar.report.operations import NotRunnableError
from attar.report.program import to_program
from attar.report.samples import trial_samples, wrong_samples
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
    predictions: dict[str, list[int]] | None = None,
    class_names: Sequence[str] = (),
) -> str:
    """The facts as one self-contained page.

    Args:
        facts: what `attar.pipeline.finish.gather` puts together; parts that are missing are left out.
        network: the compressed network, for the page to run; takes images normalised by the facts' mean and std.
        images: the test images, uint8 (N, C, H, W).
        predictions: for each test image its class: `labels`, `student` and perhaps `teacher`.
        class_names: in the order of the logits; numbers where they are missing.
    """
    names = [str(name) for name in class_names] or class_numbers(predictions)
    page = assemble(facts, network, images, predictions, names)
    if len(page.encode()) > LARGEST:
        page = assemble(facts, None, None, predictions, names, "the page would be larger than 3 MB with it")
    return page


def class_numbers(predictions: dict[str, list[int]] | None) -> list[str]:
    """Names for classes that have none."""
    largest = max((max(values, default=0) for values in (predictions or {}).values()), default=-1)
    return [str(number) for number in range(largest + 1)]


def assemble(
    facts: Facts,
    network: nn.Module | None,
    images: Tensor | None,
    predictions: dict[str, list[int]] | None,
    names: list[str],
    reason: str = "",
) -> str:
    """The page with all of its parts."""
    content: dict[str, Any] = {"classes": names, "frontier": frontier_data(facts), "curves": curves(facts)}
    wrong: list[dict[str, Any]] = []
    if images is not None and predictions is not None:
        form = normalisation(facts)
        wrong = wrong_samples(network, images, form, predictions)
        if network is not None:
            content["trials"] = trial_samples(network, images, form, predictions)
            try:
                content["program"] = to_program(network, images.shape[1:], form[0].flatten().tolist(),
                                                form[1].flatten().tolist()).to_dict()  # fmt: skip
            except NotRunnableError as error:
                reason = str(error)
    total = sum(a != b for a, b in zip(predictions["labels"], predictions["student"])) if predictions else 0
    body: list[Child] = [
        sections.verdict(facts),
        trial("program" in content, reason, names),
        frontier(facts),
        learning(content["curves"]),
        sections.confusion(predictions, names) if predictions else None,
        sections.mistakes(wrong, total, names),
        sections.proof(facts),
        sections.views(facts),
        sections.origin(facts),
    ]
    return document(facts, join(body), content)


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


def trial(runs: bool, reason: str, names: list[str]) -> Markup | None:
    """The place where the page runs the network."""
    if not runs:
        why = f"This page does not run the network: {reason}." if reason else None
        return section("trial", "Try it", element("p", why)) if why else None
    text = (
        "This page holds the compressed network and runs it here, in your browser; nothing leaves your device. "
        "Choose a test image, or drop in one of your own."
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
        element("div", id="trials", class_="trials"),
        element("div", drop, swap, id="own"),
        stage,
        element("p", "Checking the network against PyTorch …", id="check", class_="note"),
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
