"""A run beside its controls, for report.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.report.markdown import interval, percent, table

STUDENT_STAGES = ("distil", "prune")
"""In which the student learns."""


def images_seen(facts: Mapping[str, Any]) -> int:
    """Images that the student of a run saw, by its facts or record; its int8 file may have been trained further."""
    return sum(facts["images_seen"].get(stage, 0) for stage in STUDENT_STAGES)


def controls_section(facts: dict[str, Any]) -> str:
    """The run and its controls: images seen, accuracy, paired test, and plainly which is better; empty without controls."""
    controls = facts.get("controls", [])
    if not controls:
        return ""
    own = facts["test"]["student"]
    seen = images_seen(facts)
    rows = [["this run", f"{seen:,}", percent(own["accuracy"]), interval(own), "-", "-", "-"]]
    rows += [_row(control) for control in controls]
    heads = [
        "network",
        "images seen",
        "test accuracy",
        "interval",
        "only the run is right",
        "only the control",
        "p mid-p",
    ]
    intro = (
        "The same final shape with fresh weights, trained directly for as many images as the student of this run saw."
    )
    return "\n\n".join(["## Controls", intro, table(heads, rows), control_lines(facts)])


def control_lines(facts: dict[str, Any]) -> str:
    """A sentence for each control, and one for what they leave out; empty without controls."""
    sentences = [verdict(control, facts["test"]["student"]) for control in facts.get("controls") or []]
    if sentences and facts["recipe"]["student"].get("weights"):
        sentences.append(
            "The student came with trained weights: what these had seen before is not counted, and no control has seen as much."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def its_own_control(recipe: dict[str, Any]) -> bool:
    """Whether a run of the recipe learns from labels alone and is not cut, as a control does."""
    return recipe["prune"] is None and recipe["teacher"] is None


def against_teacher(facts: dict[str, Any]) -> str | None:
    """One sentence: the run beside its teacher; None where the teacher was not tested."""
    test, paired = facts["test"], facts.get("against_teacher")
    if "teacher" not in test or paired is None:
        return None
    return verdict({"name": "teacher", "test": test["teacher"], "mcnemar": paired}, test["student"], plain=True)


def verdict(control: dict[str, Any], own: dict[str, Any], plain: bool = False) -> str:
    """One sentence: which of the two is better, and whether that may be chance; bold where a control is, unless `plain`."""
    gain = 100 * (own["accuracy"] - control["test"]["accuracy"])
    p = control["mcnemar"]["mid"]
    sure = f"p = {p:.2g}" if p < 0.05 else f"which may be chance, p = {p:.2g}"
    if gain > 0:
        return f"This run is {gain:.2f} points above its {control['name']} ({sure})."
    if gain < 0:
        mark = "" if plain else "**"
        return f"{mark}Its {control['name']} is {-gain:.2f} points above this run{mark} ({sure})."
    return f"This run and its {control['name']} get equally many images right."


def _row(control: dict[str, Any]) -> list[str]:
    test, paired = control["test"], control["mcnemar"]
    return [
        control["name"],
        f"{control['images_seen']:,}",
        percent(test["accuracy"]),
        interval(test),
        str(paired["first_only"]),
        str(paired["second_only"]),
        f"{paired['mid']:.3g}",
    ]
