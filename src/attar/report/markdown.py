"""Parts of pages: tables, shares, intervals, and sentences and rows that report.md and report.html both show."""

from __future__ import annotations

import re
from typing import Any

SPECIAL = re.compile(r"`[^`]*`|\\|<(?=[A-Za-z/!?])")
"""Code, in which nothing is special, and what else is: backslashes, and the beginnings of tags."""
MARKS = re.compile(r"[\\`*_\[\]<>|~&#]")
"""What Markdown may take for a mark wherever it stands."""
NUMBER = re.compile(r"[-+]?[\d,.]+( ?[%x×]| \w{1,3})?|-|")
"""A figure with perhaps a unit, or that there is none."""


def table(heads: list[str], rows: list[list[str]], terminal: bool = False) -> str:
    """A Markdown table; one for the terminal has its texts as they are, in columns: numbers to the right."""
    if not terminal:
        lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (heads, *rows)]
        return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])
    columns = [[" ".join(text.splitlines()) for text in column] for column in zip(heads, *rows)]
    widths = [max(map(len, column)) for column in columns]
    right = [bool(column[1:]) and all(NUMBER.fullmatch(text) for text in column[1:]) for column in columns]
    padded = [
        [text.rjust(width) if to_right else text.ljust(width) for text in column]
        for column, width, to_right in zip(columns, widths, right)
    ]
    lines = ["| " + " | ".join(row) + " |" for row in zip(*padded)]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


class Literal(str):
    """A text that may hold anything, such as a class name: nothing in it is Markdown."""


def cell(text: str) -> str:
    """A text that stays in its row and its column and is no HTML; code and links in it stay what they are."""
    if isinstance(text, Literal):
        return MARKS.sub(r"\\\g<0>", " ".join(text.splitlines()))
    line = SPECIAL.sub(lambda found: found[0] if found[0][0] == "`" else f"\\{found[0]}", " ".join(text.splitlines()))
    return line.replace("|", "\\|")


def percent(share: float | None) -> str:
    """`94.75 %`, or `-` for what is not known."""
    return "-" if share is None else f"{100 * share:.2f} %"


def interval(test: dict[str, Any]) -> str:
    """`[94.30, 95.17]`, in percent, of facts with an `interval`."""
    low, high = test["interval"]
    return f"[{100 * low:.2f}, {100 * high:.2f}]"


FRONTIER = ["step", "parameters", "MACs", "units cut", "held-out before fine-tuning", "after", "proof"]
COMMONEST = ["is", "taken for", "images", "of the class"]
READING = (
    "The test images were read once, after the last step, with the last (or averaged) weights. "
    "Brackets are Wilson's 95 % interval; p is McNemar's (mid-p), of the same images."
)
TIMES = "Times are of one image in PyTorch on one thread of the CPU."
NONE_WRONG = "Not one test image is taken for another class."


def count_of_wrong(shown: int, total: int) -> str:
    """`20 of the 581 test images that the network gets wrong, evenly spread`."""
    some, how = (f"{shown} of the", ", evenly spread") if shown < total else ("All", "")
    return f"{some} {total:,} test images that the network gets wrong{how}"


def frontier_rows(points: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each point of the frontier, under `FRONTIER`."""
    return [
        [
            str(point["step"]),
            f"{point['cost']['params']:,}",
            f"{point['cost']['macs']:,}",
            str(point.get("removed", "-")),
            percent(point.get("held_out_before")),
            percent(point.get("held_out")),
            "-" if point.get("proof") is None else f"{point['proof']:.1e}",
        ]
        for point in points
    ]


def worst_proof(points: list[dict[str, Any]]) -> float | None:
    """The largest relative error of any cut; None where nothing was cut."""
    return max((point["proof"] for point in points if point.get("proof") is not None), default=None)


def commonest_rows(confusion: dict[str, Any]) -> list[list[str]]:
    """The commonest mistakes, under `COMMONEST`."""
    names = confusion["classes"]
    return [
        [Literal(names[row["is"]]), Literal(names[row["taken_for"]]), str(row["images"]), f"{row['of_class']:.1%}"]
        for row in confusion["commonest"]
    ]


def commits(facts: dict[str, Any]) -> list[str]:
    """The commits of attar that made a run: that of its first start, and others that it went on with."""
    starts = [
        start for start in facts.get("starts", []) if not isinstance(start, str)
    ]  # older runs kept the command alone
    return list(dict.fromkeys(start["commit"] or "unknown" for start in (facts["environment"], *starts)))


def teacher_name(facts: dict[str, Any]) -> str:
    """What kept outputs say of their teacher: its builder's name, or those of an ensemble's members."""
    return " + ".join(member["name"] for member in facts["members"]) if "members" in facts else facts["name"]


def threads(machine: dict[str, Any]) -> str | None:
    """`2 threads`, of several ranks `1 thread, 2 ranks`; None where that is not known."""
    if "threads" not in machine:
        return None
    count, ranks = machine["threads"], machine.get("ranks", 1)
    return f"{count} thread{'s' if count != 1 else ''}" + (f", {ranks} ranks" if ranks > 1 else "")
