"""report.json and report.md: the same facts for programs and for people."""

from __future__ import annotations

import json
from typing import Any

from attar.report.controls import controls_section
from attar.report.markdown import interval, percent, table
from attar.report.views import views_section

Facts = dict[str, Any]


def report_json(facts: Facts) -> str:
    """The facts as JSON."""
    return json.dumps(facts, indent=1) + "\n"


def report_markdown(facts: Facts, plot: str | None = None) -> str:
    """The facts as a page to read.

    Args:
        facts: what `attar.pipeline.finish.gather` puts together.
        plot: file name of the frontier's plot, beside the page.
    """
    parts = [
        f"# {facts['name']}",
        _verdict(facts),
        _costs(facts),
        views_section(facts),
        _frontier(facts, plot),
        controls_section(facts),
        _network(facts),
        _origin(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict_line(facts: Facts) -> str:
    """One line: what came out."""
    test = facts["test"]["student"]
    after = facts["cost"]["after"]
    line = (
        f"{percent(test['accuracy'])} {interval(test)} on {test['n']:,} test images with {after['params']:,} parameters"
    )
    if "teacher" in facts["test"]:
        line += f"; teacher {percent(facts['test']['teacher']['accuracy'])}"
    return line


def _verdict(facts: Facts) -> str:
    lines = ["## Verdict", "", f"**{verdict_line(facts)}.**", ""]
    after = facts["cost"]["after"]
    for kind, limit in facts["budget"].items():
        held = "held" if after[kind] <= limit else "MISSED"
        lines.append(f"- Budget {kind} <= {limit:,}: **{held}** with {after[kind]:,}.")
    worst = max((point["proof"] for point in facts["frontier"] if "proof" in point), default=None)
    if worst is not None:
        lines.append(f"- Every cut proved equal to the masked network; largest relative error {worst:.1e} (float64).")
    lines.append(
        "- The test images were read once, after the last step, with the last (or averaged) weights. "
        "Brackets are Wilson's 95 % interval."
    )
    return "\n".join(lines)


def _costs(facts: Facts) -> str:
    before, after = facts["cost"]["before"], facts["cost"]["after"]
    rows = [
        [name, f"{before[kind]:,}", f"{after[kind]:,}", f"{after[kind] / before[kind]:.1%}"]
        for kind, name in (("params", "parameters"), ("macs", "MACs of one image"), ("bytes", "bytes of the weights"))
    ]
    return "## Cost\n\n" + table(["", "student before pruning", "after", "ratio"], rows)


def _frontier(facts: Facts, plot: str | None) -> str:
    points = facts["frontier"]
    if len(points) < 2:
        return ""
    rows = [
        [
            str(point["step"]),
            f"{point['cost']['params']:,}",
            f"{point['cost']['macs']:,}",
            str(point.get("removed", "-")),
            percent(point.get("held_out_before")),
            percent(point["held_out"]),
            f"{point['proof']:.1e}" if "proof" in point else "-",
        ]
        for point in points
    ]
    heads = ["step", "parameters", "MACs", "units cut", "held-out before fine-tuning", "after", "proof"]
    picture = f"![The frontier: held-out accuracy against parameters]({plot})\n\n" if plot else ""
    return f"## Frontier\n\n{picture}{table(heads, rows)}"


def _network(facts: Facts) -> str:
    return f"## Network\n\n```\n{facts['summary']}\n```"


def _origin(facts: Facts) -> str:
    environment, machine = facts["environment"], facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    rows = [
        ["command", f"`{facts['command']}`"],
        ["recipe", f"{facts['name']}, seed {facts['recipe']['seed']}"],
        *_stand_in(facts),
        ["data", f"{facts['data']['name']} ({facts['data']['fingerprint'][:16]}), {facts['data']['source']}"],
        ["split", f"{facts['split']['train']:,} training, {facts['split']['held_out']:,} held out"],
        [
            "machine",
            f"{environment['processor']}, {machine['device']}, {machine['precision']}, {machine['threads']} threads",
        ],
        ["versions", f"Python {environment['python']}, {versions}"],
        ["commit", str(environment["commit"])],
    ]
    return "## Where it comes from\n\n" + table(["", ""], rows)


def _stand_in(facts: Facts) -> list[list[str]]:
    """The file that stood in for the teacher, if one did."""
    outputs = facts.get("teacher_outputs")
    if outputs is None:
        return []
    held_out = outputs["teacher_held_out"]
    measured = f", {percent(held_out['accuracy'])} on {held_out['images']:,} held-out images of its own split"
    pool = f"outputs of {outputs['teacher']['name']} for {outputs['view_pool']} epochs of views"
    return [["teacher", f"{pool} ({outputs['file']}){measured if held_out['accuracy'] is not None else ''}"]]
