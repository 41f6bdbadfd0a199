"""report.json and report.md: the same facts for programs and for people."""

from __future__ import annotations

import json
from typing import Any

from attar.report.controls import against_teacher, controls_section
from attar.report.costs import budget_figure, budget_lines, cost_lines, shown
from attar.report.markdown import (
    COMMONEST,
    FRONTIER,
    NONE_WRONG,
    READING,
    TIMES,
    Literal,
    commits,
    commonest_rows,
    count_of_wrong,
    frontier_rows,
    interval,
    percent,
    table,
    teacher_name,
    threads,
    worst_proof,
)
from attar.report.mistakes import spread
from attar.report.views import views_section

Facts = dict[str, Any]
MISTAKES = 20
"""Images that the page for reading names; report.html shows more, with their pictures."""


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
        _widths(facts),
        controls_section(facts),
        _learning(facts),
        _confusion(facts),
        _mistakes(facts),
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
    for line in budget_lines(facts):
        limit, used = (budget_figure(line.kind, value) for value in (line.limit, line.used))
        how = f" ({line.how})" if line.how else ""
        lines.append(f"- Budget {line.kind} <= {limit}: **{line.verdict}** with {used}{how}.")
    if (worst := worst_proof(facts["frontier"])) is not None:
        lines.append(f"- Every cut proved equal to the masked network; largest relative error {worst:.1e} (float64).")
    if said := against_teacher(facts):
        lines.append(f"- {said}")
    return "\n".join([*lines, f"- {READING}"])


def _costs(facts: Facts) -> str:
    rows = [
        [
            line.name,
            *(_figure(value, line.unit) for value in (line.teacher, line.before, line.after)),
            line.than_teacher or "-",
            line.than_before or "-",
        ]
        for line in cost_lines(facts)
    ]
    heads = ["", "teacher", "student before pruning", "after", "than the teacher", "than before pruning"]
    note = f"\n\n{TIMES}" if facts.get("latency") else ""
    return "## Cost\n\n" + table(heads, rows) + note


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{shown(value)}{unit}" if unit else f"{value:,}"


def _frontier(facts: Facts, plot: str | None) -> str:
    points = facts["frontier"]
    if len(points) < 2:
        return ""
    picture = f"![The frontier: held-out accuracy against parameters]({plot})\n\n" if plot else ""
    return f"## Frontier\n\n{picture}{table(FRONTIER, frontier_rows(points))}"


def _widths(facts: Facts) -> str:
    """Units of every group at the start and at the end."""
    points = facts["frontier"]
    if len(points) < 2 or "widths" not in points[0]:
        return ""
    rows = [[f"`{name}`", str(width), str(points[-1]["widths"][name])] for name, width in points[0]["widths"].items()]
    return "## Widths per layer\n\n" + table(["layer", "before", "after"], rows)


def _learning(facts: Facts) -> str:
    """Where every stage ended; each epoch's figures are in report.json."""
    last = {str(line["stage"]): line for line in facts.get("learning_curves", [])}
    rows = [
        [
            stage,
            f"{facts['images_seen'].get(stage, line['images']):,}",
            "-" if facts["seconds"].get(stage) is None else f"{facts['seconds'][stage]:,.0f}",
            f"{line['loss']:.4f}",
            percent(line["accuracy"]),
            percent(line["held_out"]),
        ]
        for stage, line in last.items()
    ]
    heads = ["stage", "images seen", "seconds", "last loss", "accuracy on training views", "held-out accuracy"]
    note = "The curves are drawn in `report.html`; every point is in `report.json`."
    return f"## Learning\n\n{table(heads, rows)}\n\n{note}" if rows else ""


def _confusion(facts: Facts) -> str:
    confusion = facts["confusion"]
    names, matrix = list(map(Literal, confusion["classes"])), confusion["matrix"]
    if not confusion["commonest"]:
        return f"## Confusion\n\n{NONE_WRONG}"
    parts = ["## Confusion"]
    if matrix is not None:
        rows = [[name, *(str(n or "") for n in row)] for name, row in zip(names, matrix)]
        parts.append(table(["is ↓ taken for →", *names], rows))
    parts.append("Commonest mistakes:\n\n" + table(COMMONEST, commonest_rows(confusion)))
    return "\n\n".join(parts)


def _mistakes(facts: Facts) -> str:
    """Single images of those that are wrong."""
    names, shown = list(map(Literal, facts["confusion"]["classes"])), spread(facts["mistakes"]["shown"], MISTAKES)
    if not shown:
        return ""
    rows = []
    for row in shown:
        opinions = [
            cell
            for who in ("student", "teacher")
            for cell in (names[row[who]] if who in row else "-", percent(row.get(f"{who}_confidence")))
        ]
        rows.append([str(row["index"]), names[row["label"]], *opinions])
    heads = ["test image", "is", "the network says", "how sure", "the teacher says", "how sure"]
    return f"## Mistakes\n\n{count_of_wrong(len(shown), facts['mistakes']['total'])}:\n\n{table(heads, rows)}"


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
        ["test images read", facts["test_read"]],
        ["split", f"{facts['split']['train']:,} training, {facts['split']['held_out']:,} held out"],
        [
            "machine",
            f"{environment['processor']}, {machine['device']}, {machine['precision']}, {threads(machine)}",
        ],
        *_memory(facts),
        ["versions", f"Python {environment['python']}, {versions}"],
        ["commit", ", then ".join(commits(facts))],
    ]
    return "## Where it comes from\n\n" + table(["", ""], rows)


def _memory(facts: Facts) -> list[list[str]]:
    """The most that was held until the end of each stage, by the process and, in it, on a GPU."""
    names = {"process": "", "cuda": " on the GPU"}
    held = [
        f"{stage} {' and '.join(f'{size / 1e6:,.0f} MB{names[where]}' for where, size in peak.items())}"
        for stage, peak in facts.get("peak_memory", {}).items()
    ]
    return [["peak memory", ", ".join(held)]] if held else []


def _stand_in(facts: Facts) -> list[list[str]]:
    """The file that stood in for the teacher, if one did."""
    outputs = facts.get("teacher_outputs")
    if outputs is None:
        return []
    held_out = outputs["teacher_held_out"]
    measured = f", {percent(held_out['accuracy'])} on {held_out['images']:,} held-out images of its own split"
    pool = f"outputs of {teacher_name(outputs['teacher'])} for {outputs['view_pool']} epochs of views"
    return [["teacher", f"{pool} ({outputs['file']}){measured if held_out['accuracy'] is not None else ''}"]]
