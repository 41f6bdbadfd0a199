"""Runs side by side: accuracy with interval, cost, what differs in their recipes, paired tests, means over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from attar.report.markdown import interval, percent, table
from attar.report.statistics import McNemar, mcnemar, mean_sd, wilson_interval

NO_DIFFERENCE = ("name", "seed", "compute")
"""Parts of a recipe that do not tell two settings apart: what a run is called, its seed, and where it was computed."""


@dataclass(frozen=True)
class Outcome:
    """What came out of one run, as plain data."""

    name: str
    recipe: dict[str, Any]
    images: str
    """Names the evaluated images: outcomes are compared only where these are equal."""
    hits: int
    n: int
    correct: tuple[bool, ...] | None
    """For each image; None where a run did not keep them."""
    params: int
    macs: int
    bytes: int
    images_seen: int
    """Of all stages that train the student."""
    seconds: float | None
    """Of training, over all stages; None where it was not recorded."""

    @property
    def accuracy(self) -> float:
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.hits, self.n)


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of several runs."""

    held_out: bool
    """Whether the images are held-out training images; else the test images."""
    outcomes: tuple[Outcome, ...]
    differences: dict[str, list[Any]]
    """Key of the recipe -> its value in each run; only keys that differ. Absent keys are None."""
    pairs: tuple[tuple[str, str, McNemar], ...]
    groups: tuple[tuple[tuple[str, ...], float, float | None], ...]
    """Runs that differ in nothing but the seed: names, mean accuracy, standard deviation."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the single predictions."""
        runs = []
        for outcome in self.outcomes:
            plain = asdict(outcome)
            del plain["correct"], plain["recipe"]
            runs.append({**plain, "accuracy": outcome.accuracy, "interval": outcome.interval})
        return {
            "format": 1,
            "held_out": self.held_out,
            "runs": runs,
            "differences": self.differences,
            "mcnemar": [{"first": a, "second": b, **asdict(test)} for a, b, test in self.pairs],
            "groups": [{"runs": names, "n": len(names), "mean": m, "sd": sd} for names, m, sd in self.groups],
        }


def compare(outcomes: Sequence[Outcome], held_out: bool = False) -> Comparison:
    """Lay outcomes side by side.

    Args:
        outcomes: at least two, evaluated on the same images.
        held_out: whether these are held-out images.

    Raises:
        ValueError: fewer than two, or outcomes on other images (naming the two).
    """
    if len(outcomes) < 2:
        raise ValueError(f"{len(outcomes)} run given: a comparison needs at least two")
    first = outcomes[0]
    for other in outcomes[1:]:
        if other.images != first.images:
            raise ValueError(
                f"{first.name} and {other.name} cannot be compared: the one was evaluated on {first.images}, "
                f"the other on {other.images}"
            )
    pairs = [
        (a.name, b.name, mcnemar(a.correct, b.correct))
        for a, b in combinations(outcomes, 2)
        if a.correct is not None and b.correct is not None
    ]
    return Comparison(held_out, tuple(outcomes), _differences(outcomes), tuple(pairs), tuple(_groups(outcomes)))


def comparison_json(comparison: Comparison) -> str:
    """The comparison for programs."""
    return json.dumps(comparison.to_dict(), indent=1) + "\n"


def comparison_markdown(comparison: Comparison, plot: str | None = None, terminal: bool = False) -> str:
    """The comparison as a page to read, or to print.

    Args:
        comparison: of the runs.
        plot: file name of the plot, beside the page.
        terminal: with its tables in columns.
    """
    kind = "held-out training" if comparison.held_out else "test"
    intro = f"# Comparison\n\nAccuracy on {comparison.outcomes[0].n:,} {kind} images, with Wilson's 95 % interval."
    picture = f"![Accuracy with its interval against parameters]({plot})" if plot else ""
    parts = [
        intro,
        picture,
        _runs(comparison, terminal),
        _same_but_seed(comparison, terminal),
        _what_differs(comparison, terminal),
        _tests(comparison, terminal),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(comparison: Comparison, terminal: bool) -> str:
    rows = [
        [
            outcome.name,
            percent(outcome.accuracy),
            interval({"interval": outcome.interval}),
            f"{outcome.hits:,}",
            f"{outcome.params:,}",
            f"{outcome.macs:,}",
            f"{outcome.bytes:,}",
            f"{outcome.images_seen:,}",
            "-" if outcome.seconds is None else f"{outcome.seconds:,.0f}",
        ]
        for outcome in comparison.outcomes
    ]
    heads = ["run", "accuracy", "interval", "hits", "parameters", "MACs", "bytes", "images seen", "seconds"]
    return "## Runs\n\n" + table(heads, rows, terminal)


def _same_but_seed(comparison: Comparison, terminal: bool) -> str:
    if not comparison.groups:
        return ""
    rows = [
        [", ".join(names), percent(mean), "-" if sd is None else f"{100 * sd:.2f}", str(len(names))]
        for names, mean, sd in comparison.groups
    ]
    return "## Over seeds\n\n" + table(["runs that differ in the seed only", "mean", "sd", "n"], rows, terminal)


def _what_differs(comparison: Comparison, terminal: bool) -> str:
    if not comparison.differences:
        return "## Recipes\n\nThe recipes do not differ."
    names = [outcome.name for outcome in comparison.outcomes]
    rows = [[key, *map(_shown, values)] for key, values in comparison.differences.items()]
    return "## What differs in the recipes\n\n" + table(["key", *names], rows, terminal)


def _tests(comparison: Comparison, terminal: bool) -> str:
    if not comparison.pairs:
        return "## Paired tests\n\nThese runs did not keep their single predictions, so there is no paired test."
    rows = [
        [first, second, str(test.first_only), str(test.second_only), f"{test.exact:.3g}", f"{test.mid:.3g}"]
        for first, second, test in comparison.pairs
    ]
    heads = ["first", "second", "only the first is right", "only the second", "p exact", "p mid-p"]
    note = ""
    if len(rows) > 1:
        note = (
            f"\n\nThese are {len(rows)} tests; none is corrected for that (Bonferroni: p below {0.05 / len(rows):.2g})."
        )
    return f"## Paired tests (McNemar)\n\n{table(heads, rows, terminal)}{note}"


def _shown(value: Any) -> str:
    return "-" if value is None else json.dumps(value)


def _differences(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    flat = [dict(flattened(outcome.recipe)) for outcome in outcomes]
    keys = sorted({key for recipe in flat for key in recipe})
    columns = {key: [recipe.get(key) for recipe in flat] for key in keys}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for everything in nested tables."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[tuple[str, ...], float, float | None]]:
    """Outcomes of the same settings with different seeds, where there are at least two; runs of one seed count as their mean."""
    found: dict[str, dict[int, list[Outcome]]] = {}
    for outcome in outcomes:
        settings = {key: value for key, value in outcome.recipe.items() if key not in NO_DIFFERENCE}
        seeds = found.setdefault(json.dumps(settings, sort_keys=True), {})
        seeds.setdefault(outcome.recipe["seed"], []).append(outcome)
    for seeds in found.values():
        if len(seeds) > 1:
            mean, sd = mean_sd([mean_sd([outcome.accuracy for outcome in same])[0] for same in seeds.values()])
            yield tuple(outcome.name for same in seeds.values() for outcome in same), mean, sd
