"""The parts of the report's page that need no script: verdict, costs, mistakes, proof, origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attar.report.controls import against_teacher
from attar.report.controls import verdict as sentence
from attar.report.costs import COSTS, budget_figure, budget_lines, cost_lines, shown
from attar.report.markdown import (
    COMMONEST,
    FRONTIER,
    NONE_WRONG,
    READING,
    TIMES,
    commits,
    commonest_rows,
    count_of_wrong,
    frontier_rows,
    interval,
    percent,
    threads,
    worst_proof,
)
from attar.report.markup import Child, Markup, element, join, section, table

Facts = dict[str, Any]


def verdict(facts: Facts) -> Markup:
    """What came out, before anything else."""
    test = facts["test"]["student"]
    controls = facts.get("controls") or []
    tested = {**facts["test"], **{control["name"]: control["test"] for control in controls}}
    rivals = [against_teacher(facts), *(sentence(control, test) for control in controls)]
    return element(
        "header",
        element("p", "attar report", class_="kicker"),
        element("h1", facts["name"]),
        element(
            "p",
            element("b", percent(test["accuracy"]), class_="big"),
            element("span", f" {interval(test)} on {test['n']:,} test images"),
            class_="headline",
        ),
        element("div", budgets(facts), class_="cards") if facts["budget"] else None,
        accuracies(tested),
        [element("p", text.replace("**", "")) for text in rivals if text],
        costs(facts),
        element("p", READING + (f" {TIMES}" if facts.get("latency") else ""), class_="note"),
    )


def budgets(facts: Facts) -> list[Markup]:
    """A card for each limit: held or missed, and how full it is."""
    cards = []
    for line in budget_lines(facts):
        name = f"seconds for {line.how or 'a batch'}" if line.kind == "latency" else COSTS[line.kind]
        share = min(1.0, (line.used or 0) / line.limit)
        used, limit = (budget_figure(line.kind, value) for value in (line.used, line.limit))
        cards.append(
            element(
                "div",
                element("small", f"Budget: {name}"),
                element("strong", line.verdict, class_="bad" if line.verdict == "MISSED" else "good"),
                element("span", f"{used} of {limit}"),
                element("i", element("i", style=f"width:{100 * share:.2f}%"), class_="meter"),
                class_="card",
            )
        )
    return cards


def costs(facts: Facts) -> Markup | None:
    """What the network costs, and how much less that is than the teacher and the student before pruning."""
    lines = list(cost_lines(facts))
    others = [
        (title, figure, change)
        for title, figure, change in (
            ("than the teacher", lambda line: line.teacher, lambda line: line.than_teacher),
            ("than before pruning", lambda line: line.before, lambda line: line.than_before),
        )
        if any(change(line) for line in lines)
    ]
    rows = [
        [
            line.name,
            element("b", f"{number(line.after)}{line.unit}"),
            *(against(change(line), figure(line), line.unit) for _, figure, change in others),
        ]
        for line in lines
    ]
    heads = ["", "this network", *(title for title, *_ in others)]
    return element("div", table(heads, rows), class_="costs") if rows else None


def against(change: str, value: float | None, unit: str) -> Child:
    """`9.9× smaller`, and under it the figure that it is held against."""
    if not change:
        return "-"
    worse = change.endswith(("slower", "larger"))
    return [element("b", change, class_="bad" if worse else None), element("small", f"{number(value)}{unit}")]


def accuracies(tests: dict[str, Facts]) -> Markup | None:
    """Each network's accuracy with its interval, on one scale."""
    if len(tests) < 2:
        return None
    low = min(test["interval"][0] for test in tests.values())
    high = max(test["interval"][1] for test in tests.values())
    margin = max(0.05 * (high - low), 1e-4)
    low, high = max(0.0, low - margin), min(1.0, high + margin)

    def place(share: float) -> float:
        return 100 * (share - low) / (high - low)

    rows = []
    for name, test in tests.items():
        left, right = (place(end) for end in test["interval"])
        bar = element("i", style=f"left:{left:.2f}%;width:{right - left:.2f}%")
        dot = element("b", style=f"left:{place(test['accuracy']):.2f}%")
        text = element("span", f"{percent(test['accuracy'])} {interval(test)}")
        rows.append(element("div", element("span", name), element("span", bar, dot, class_="range"), text))
    return element("div", *rows, class_="accuracies", role="img", aria_label="Accuracies with 95 % intervals")


def views(facts: Facts) -> Markup | None:
    """The files that hold the same network, side by side, with what is wrong with any of them."""
    found = facts.get("views") or []
    if not found:
        return None
    rows = []
    for view in found:
        test = view.get("test") or {}
        flags = [element("span", flag, class_="bad") for flag in view.get("flags", [])]
        rows.append(
            [
                element("code", view.get("name", "")),
                number(view.get("bytes")),
                percent(test.get("accuracy")),
                "-" if view.get("milliseconds") is None else f"{view['milliseconds']:.2f}",
                join(flags) if flags else "agrees",
            ]
        )
    heads = ["file", "bytes", "test accuracy", "ms for one image", "against the network"]
    return section("views", "Files that hold this network", table(heads, rows))


def confusion(facts: Facts) -> Markup:
    """Which class is taken for which: the matrix where it can be read, the commonest mistakes always."""
    names = facts["classes"]
    if not facts["commonest"]:
        return section("confusion", "Confusion", element("p", NONE_WRONG))
    listed = table(COMMONEST, commonest_rows(facts))
    matrix = confusion_matrix(facts["matrix"], names) if facts["matrix"] is not None else None
    return section("confusion", "Confusion", matrix, element("h3", "Commonest mistakes"), listed)


def confusion_matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Rows are what images are, columns what the network takes them for; shares of the row as colour."""
    heads = [element("th", element("span", name), scope="col") for name in names]
    rows = [element("tr", element("th", "is ↓  taken for →"), *heads)]
    for a, row in enumerate(counts):
        cells = []
        for b, n in enumerate(row):
            strength = round(100 * (n / sum(row)) ** 0.5) if n else 0
            title = f"{n} of {sum(row)} images of {names[a]} are taken for {names[b]}"
            kind = "right" if a == b else "wrong"
            cells.append(element("td", n or "", class_=kind, style=f"--s:{strength}%", title=title))
        rows.append(element("tr", element("th", names[a], scope="row"), *cells))
    return element("div", element("table", *rows, class_="matrix"), class_="wide")


def mistakes(facts: Facts, names: Sequence[str]) -> Markup | None:
    """Images that the network gets wrong, each with its picture, and what the teacher says of them and how sure it is."""
    shown = facts["shown"]
    if not shown:
        return None
    figures = []
    for row in shown:
        teacher: Child = None
        if "teacher" in row:
            kind = "good" if row["teacher"] == row["label"] else "bad"
            teacher = element("span", f"teacher: {opinion(row, 'teacher', names)}", class_=kind)
        title = f"test image {row['index']}"
        picture = element("img", src=f"data:image/png;base64,{row['png']}", alt=title, title=title)
        caption = element(
            "figcaption", element("b", names[row["label"]]), f"→ {opinion(row, 'student', names)}", teacher
        )
        figures.append(element("figure", picture, caption))
    text = f"{count_of_wrong(len(shown), facts['total'])}: what it is → what the network says"
    text += ", then what the teacher says" if "teacher" in shown[0] else ""
    sure = "; the figure is how sure the network is that says it." if "student_confidence" in shown[0] else "."
    return section("mistakes", "Mistakes", element("p", text + sure), element("div", *figures, class_="gallery"))


def opinion(row: Facts, who: str, names: Sequence[str]) -> str:
    """`Shirt 87 %`: the class that a network gives an image, and its probability where it is known."""
    sure = row.get(f"{who}_confidence")
    return names[row[who]] + ("" if sure is None else f" {100 * sure:.0f}\u00a0%")


def proof(facts: Facts) -> Markup | None:
    """The cuts, each with its figure."""
    worst = worst_proof(facts["frontier"])
    if worst is None:
        return None
    text = (
        "After each cut the small network was compared with the large one whose removed units are masked, in float64. "
        f"The largest relative error of any step is {worst:.1e}."
    )
    details = element("details", element("summary", "Every step"), table(FRONTIER, frontier_rows(facts["frontier"])))
    return section("proof", "Proof", element("p", text), details)


def origin(facts: Facts) -> Markup:
    """Command, data, machine and versions; what is not known is left out."""
    environment, machine = facts.get("environment", {}), facts.get("machine", {})
    source, split = facts.get("data", {}), facts.get("split", {})
    versions = [f"{name} {version}" for name, version in environment.get("versions", {}).items()]
    seed = facts.get("recipe", {}).get("seed")
    rows: list[list[Child]] = [
        ["command", element("code", facts["command"]) if facts.get("command") else None],
        ["seed", seed],
        ["data", words(source.get("name"), source.get("source"))],
        ["fingerprint", element("code", source["fingerprint"]) if source.get("fingerprint") else None],
        ["split", f"{split['train']:,} training, {split['held_out']:,} held out" if split else None],
        ["images seen", words(*(f"{stage} {n:,}" for stage, n in facts.get("images_seen", {}).items()))],
        ["test images read", facts.get("test_read")],
        ["processor", words(environment.get("processor"), environment.get("system"))],
        ["ran on", words(machine.get("device"), machine.get("precision"), threads(machine))],
        ["peak memory", words(*(f"{s} {p['process'] / 1e6:,.0f} MB" for s, p in facts.get("peak_memory", {}).items()))],
        ["versions", words(f"Python {environment['python']}" if "python" in environment else None, *versions)],
        ["commit", ", then ".join(commits(facts)) if environment else None],
    ]
    network = None
    if facts.get("summary"):
        network = element("details", element("summary", "The network layer by layer"), element("pre", facts["summary"]))
    known = [row for row in rows if row[1] not in (None, "")]
    return section("origin", "Where it comes from", table([], known, numbers=False), network)


def words(*parts: Any) -> str:
    """What is known of the parts, with commas."""
    return ", ".join(str(part) for part in parts if part)


def number(value: float | None) -> str:
    """Thousands with commas; fractions to three figures."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) or value == int(value) else shown(value)
