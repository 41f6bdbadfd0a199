"""The parts of the report's page that need no script: verdict, costs, mistakes, proof, origin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from attar.report.controls import verdict as sentence
from attar.report.markdown import interval, percent
from attar.report.markup import Child, Markup, element, join, section, table

Facts = dict[str, Any]
COSTS = {"params": "parameters", "macs": "MACs of one image", "bytes": "bytes of weights", "latency": "seconds"}
LARGEST_MATRIX = 25
"""Classes beyond which a confusion matrix tells nothing at a glance."""


def verdict(facts: Facts) -> Markup:
    """What came out, before anything else."""
    test = facts["test"]["student"]
    controls = facts.get("controls") or []
    tested = {**facts["test"], **{control["name"]: control["test"] for control in controls}}
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
        element("div", budgets(facts), ratios(facts), class_="cards"),
        accuracies(tested),
        [element("p", sentence(control, test).replace("**", "")) for control in controls],
        element(
            "p",
            "The test images were read once, after the last step, with the last (or averaged) weights. "
            "Brackets are Wilson's 95 % interval.",
            class_="note",
        ),
    )


def budgets(facts: Facts) -> list[Markup]:
    """A card for each limit: held or missed, and how full it is."""
    after = facts["cost"]["after"]
    cards = []
    for kind, limit in facts["budget"].items():
        used = after.get(kind)
        held = used is None or used <= limit
        word = "not measured" if used is None else "held" if held else "MISSED"
        share = 0 if used is None else min(1.0, used / limit) if limit else 1.0
        cards.append(
            element(
                "div",
                element("small", f"Budget: {COSTS.get(kind, kind)}"),
                element("strong", word, class_="good" if held else "bad"),
                element("span", f"{number(used)} of {number(limit)}"),
                element("i", element("i", style=f"width:{100 * share:.2f}%"), class_="meter"),
                class_="card",
            )
        )
    return cards


def ratios(facts: Facts) -> list[Markup]:
    """A card for each cost: how much smaller the network became."""
    before, after = facts["cost"]["before"], facts["cost"]["after"]
    cards = []
    for kind, name in COSTS.items():
        if not before.get(kind) or not after.get(kind):
            continue
        cut = after[kind] < before[kind]
        change = f"{before[kind] / after[kind]:.1f}× smaller" if cut else "as it was"
        text = f"{number(before[kind])} → {number(after[kind])}" if cut else number(after[kind])
        cards.append(
            element("div", element("small", name), element("strong", change), element("span", text), class_="card")
        )
    return cards


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


def confusion(predictions: dict[str, list[int]], names: Sequence[str]) -> Markup | None:
    """Which class is taken for which: the matrix where it can be read, the commonest mistakes always."""
    labels, student = predictions["labels"], predictions["student"]
    counts = Counter(zip(labels, student))
    pairs = [(pair, n) for pair, n in counts.most_common() if pair[0] != pair[1]][:12]
    if not pairs:
        return section("confusion", "Confusion", element("p", "Not one test image is taken for another class."))
    of_class = Counter(labels)
    rows: list[list[Child]] = [[names[a], names[b], n, f"{n / of_class[a]:.1%}"] for (a, b), n in pairs]
    listed = table(["is", "taken for", "images", "of the class"], rows)
    matrix = confusion_matrix(counts, of_class, names) if len(names) <= LARGEST_MATRIX else None
    return section("confusion", "Confusion", matrix, element("h3", "Commonest mistakes"), listed)


def confusion_matrix(counts: Counter[tuple[int, int]], of_class: Counter[int], names: Sequence[str]) -> Markup:
    """Rows are what images are, columns what the network takes them for; shares of the row as colour."""
    classes = range(len(names))
    heads = [element("th", element("span", names[b]), scope="col") for b in classes]
    rows = [element("tr", element("th", "is ↓  taken for →"), *heads)]
    for a in classes:
        cells = []
        for b in classes:
            n = counts[a, b]
            strength = round(100 * (n / of_class[a]) ** 0.5) if n else 0
            title = f"{n} of {of_class[a]} images of {names[a]} are taken for {names[b]}"
            kind = "right" if a == b else "wrong"
            cells.append(element("td", n or "", class_=kind, style=f"--s:{strength}%", title=title))
        rows.append(element("tr", element("th", names[a], scope="row"), *cells))
    return element("div", element("table", *rows, class_="matrix"), class_="wide")


def mistakes(samples: list[dict[str, Any]], total: int, names: Sequence[str]) -> Markup | None:
    """Images that the network gets wrong, and what the teacher says of them."""
    if not samples:
        return None
    figures = []
    for sample in samples:
        teacher: Child = None
        if "teacher" in sample:
            right = sample["teacher"] == sample["label"]
            opinion = names[sample["teacher"]]
            teacher = element("span", f"teacher: {opinion}", class_="good" if right else "bad")
        sure = f" {100 * sample['confidence']:.0f} %" if "confidence" in sample else ""
        title = f"test image {sample['index']}"
        picture = element("img", src=f"data:image/png;base64,{sample['png']}", alt=title, title=title)
        caption = element(
            "figcaption", element("b", names[sample["label"]]), f"→ {names[sample['student']]}{sure}", teacher
        )
        figures.append(element("figure", picture, caption))
    shown = f"{len(samples)} of the {total:,}" if total > len(samples) else f"All {total:,}"
    text = (
        f"{shown} test images that the network gets wrong, evenly spread: what it is → what the network says, and how "
    )
    text += "sure it is" + ("; then the teacher's opinion." if "teacher" in samples[0] else ".")
    return section("mistakes", "Mistakes", element("p", text), element("div", *figures, class_="gallery"))


def proof(facts: Facts) -> Markup | None:
    """The cuts, each with its figure."""
    points = facts["frontier"]
    worst = max((point["proof"] for point in points if point.get("proof") is not None), default=None)
    if worst is None:
        return None
    rows = [
        [
            point["step"],
            number(point["cost"]["params"]),
            number(point["cost"]["macs"]),
            point.get("removed", "-"),
            percent(point.get("held_out_before")),
            percent(point.get("held_out")),
            f"{point['proof']:.1e}" if point.get("proof") is not None else "-",
        ]
        for point in points
    ]
    heads = ["step", "parameters", "MACs", "units cut", "held-out before fine-tuning", "after", "proof"]
    text = (
        "After each cut the small network was compared with the large one whose removed units are masked, in float64. "
        f"The largest relative error of any step is {worst:.1e}."
    )
    details = element("details", element("summary", "Every step"), table(heads, rows))
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
        ["versions", words(f"Python {environment['python']}" if "python" in environment else None, *versions)],
        ["commit", environment.get("commit")],
    ]
    network = None
    if facts.get("summary"):
        network = element("details", element("summary", "The network layer by layer"), element("pre", facts["summary"]))
    known = [row for row in rows if row[1] not in (None, "")]
    return section("origin", "Where it comes from", table([], known, numbers=False), network)


def threads(machine: Facts) -> str | None:
    return f"{machine['threads']} threads" if "threads" in machine else None


def words(*parts: Any) -> str:
    """What is known of the parts, with commas."""
    return ", ".join(str(part) for part in parts if part)


def number(value: float | None) -> str:
    """Thousands with commas; fractions to three figures."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) or value == int(value) else f"{value:.3g}"
