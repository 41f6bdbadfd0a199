"""Tables as a renderer of Markdown has them: names of any kind stay in their cells, and are no HTML."""

import re
from html import unescape

from markdown_it import MarkdownIt  # rich brings it

from attar.report import Outcome, compare, comparison_markdown, table
from attar.report.write import _confusion

NAMES = [
    "x|y",
    "<unk>",
    "new\nline",
    "back\\|slash\\",
    "a < b",
    "</td><script>alert(1)</script>",
    "*a* _b_",
    "[d](e) `f`",
    "&amp; ~~g~~",
]


def rendered(page: str) -> list[list[str]]:
    """The texts of all cells, row by row."""
    rows = re.findall("<tr>(.*?)</tr>", MarkdownIt("commonmark").enable("table").render(page), re.S)
    return [[unescape(text) for text in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def test_names_of_classes_are_themselves_in_heads_and_rows():
    every, shown = range(len(NAMES)), [name.replace("\n", " ") for name in NAMES]
    matrix = [[1] * len(NAMES) for _ in every]
    commonest = [{"is": i, "taken_for": i, "images": 1, "of_class": 0.5} for i in every]
    rows = rendered(_confusion({"confusion": {"classes": NAMES, "matrix": matrix, "commonest": commonest}}))
    assert rows[0] == ["is ↓ taken for →", *shown]
    assert rows[1 : len(NAMES) + 1] == [[name, *"1" * len(NAMES)] for name in shown]
    assert rows[len(NAMES) + 2 :] == [[name, name, "1", "50.0%"] for name in shown]


def test_names_of_runs_are_themselves_in_heads_and_rows():
    least = {"images": "t", "hits": 1, "n": 2, "correct": None, "params": 1, "macs": 1, "bytes": 1, "images_seen": 1}
    runs = [
        Outcome(name=name, recipe={"seed": 0, "distil": {"temperature": i}}, seconds=None, **least)
        for i, name in enumerate(("x|y", "<unk>"))
    ]
    rows = rendered(comparison_markdown(compare(runs)))
    assert [row[0] for row in rows[1:3]] == ["x|y", "<unk>"]
    assert rows[3:] == [["key", "x|y", "<unk>"], ["distil.temperature", "0", "1"]]


def test_code_and_links_stay_and_the_terminal_has_the_texts_as_they_are():
    page = table(["", ""], [["`a|<b>\\c`", "[d](e)"]])
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert "<code>a|&lt;b&gt;\\c</code>" in html and '<a href="e">d</a>' in html
    assert table(["x|y"], [["<unk>"]], terminal=True).splitlines() == ["| x|y   |", "|-------|", "| <unk> |"]
    figures = table(["", "n"], [["a", "1,000"], ["bc", "-"]], terminal=True)
    assert figures.splitlines()[2:] == ["| a  | 1,000 |", "| bc |     - |"]
