"""The picture of RESULTS.md: what every recipe, its teacher and its controls get, and how accuracy holds while units go.

SVG written by hand, so that the same records give the same bytes wherever they are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, PANEL = 960, 400, 46, 62, 62, 410
COLOURS = ("#3b6fd4", "#d1495b", "#2a9d6f", "#b5651d", "#7a4fb5", "#00838f")
GREY, SOFT = "#555", "#ddd"


@dataclass(frozen=True)
class Shown:
    """What is drawn of a recipe; shares are 0 to 1."""

    name: str
    params: int
    runs: list[tuple[float, float, float]]
    """Test accuracy of every seed, and the ends of its interval."""
    taught: list[float]
    """Of the controls with the teacher."""
    labels: list[float]
    """Of the controls without."""
    teacher: float | None
    frontier: list[tuple[int, float]]
    """Parameters and held-out accuracy after every step, mean over seeds."""


def results_svg(recipes: Sequence[Shown]) -> str:
    """Two panels side by side."""
    drawn = [*_legend(), *_finals(recipes), *_frontiers(recipes)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
            'font-size="12">',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _legend() -> list[str]:
    parts, x = [], LEFT
    for draw, said in (
        (_dot, "run, one per seed, with its 95 % interval"),
        (_square, "control with the teacher"),
        (_diamond, "control without"),
        (_dash, "teacher"),
    ):
        parts += [draw(x + 5, 14, GREY), _text(x + 16, 18, said, "start")]
        x += 40 + round(6.2 * len(said))
    return parts


def _finals(recipes: Sequence[Shown]) -> list[str]:
    """A column for each recipe."""
    shares = [
        share for r in recipes for share in (*sum(r.runs, ()), *r.taught, *r.labels, r.teacher) if share is not None
    ]
    y, parts = _scale(shares)
    parts.append(_text(LEFT, TOP - 16, "Test accuracy (%)", "start", bold=True))
    step = PANEL / len(recipes)
    for number, (recipe, colour) in enumerate(zip(recipes, _colours(recipes))):
        middle = LEFT + step * (number + 0.5)
        if recipe.teacher is not None:
            parts.append(_dash(middle, y(recipe.teacher), GREY, min(30.0, step / 3)))
        for at, (share, low, high) in zip(_spread(middle - 14, len(recipe.runs)), recipe.runs):
            parts += [_line([(at, y(low)), (at, y(high))], colour), _dot(at, y(share), colour)]
        for draw, side, found in ((_square, 8, recipe.taught), (_diamond, 24, recipe.labels)):
            parts += [draw(at, y(share), colour) for at, share in zip(_spread(middle + side, len(found)), found)]
        for row, said in enumerate((recipe.name.removeprefix("fashion-mnist-"), f"{recipe.params:,}", "parameters")):
            parts.append(_text(middle, HEIGHT - BOTTOM + 18 + 14 * row, said, bold=row == 0))
    return parts


def _frontiers(recipes: Sequence[Shown]) -> list[str]:
    """A line for each recipe that was pruned, from the uncut student on the left to the budget on the right."""
    pruned = [(r, colour) for r, colour in zip(recipes, _colours(recipes)) if len(r.frontier) > 1]
    if not pruned:
        return []
    left = LEFT + PANEL + 74
    y, parts = _scale([share for r, _ in pruned for _, share in r.frontier], left)
    parts.append(_text(left, TOP - 16, "Held-out accuracy (%) after each step of pruning", "start", bold=True))
    counts = [params for r, _ in pruned for params, _ in r.frontier]
    most, least = math.log(max(counts)), math.log(min(counts))

    def x(params: int) -> float:
        return left + 8 + (PANEL - 16) * (most - math.log(params)) / max(most - least, 1e-9)

    for params in sorted({max(counts), *(r.frontier[-1][0] for r, _ in pruned)}):
        parts.append(_text(x(params), HEIGHT - BOTTOM + 18, f"{params / 1000:,.0f}k"))
    parts.append(_text(left + PANEL / 2, HEIGHT - BOTTOM + 36, "parameters"))
    for recipe, colour in pruned:
        points = [(x(params), y(share)) for params, share in recipe.frontier]
        parts += [_line(points, colour), *(_dot(*point, colour, 2.2) for point in points)]
    return parts


def _scale(shares: Iterable[float], left: float = LEFT) -> tuple[Callable[[float], float], list[str]]:
    """Where a share is drawn, and the grid."""
    shares = list(shares)
    gap = next(gap for gap in (0.5, 1, 2, 5, 10, 20) if 100 * (max(shares) - min(shares)) / gap <= 9)
    low, high = math.floor(100 * min(shares) / gap) * gap, math.ceil(100 * max(shares) / gap) * gap
    high += gap * (high == low)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - 100 * share) / (high - low)

    grid = []
    for tick in range(round((high - low) / gap) + 1):
        value = low + tick * gap
        grid.append(_line([(left, y(value / 100)), (left + PANEL, y(value / 100))], SOFT))
        grid.append(_text(left - 6, y(value / 100) + 4, f"{value:g}", "end"))
    return y, grid


def _colours(recipes: Sequence[Shown]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(recipes))]


def _spread(middle: float, count: int) -> list[float]:
    """Places side by side."""
    return [middle + 7 * (number - (count - 1) / 2) for number in range(count)]


def _dot(x: float, y: float, colour: str, radius: float = 3.5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _square(x: float, y: float, colour: str) -> str:
    return f'<path d="M{x - 3.5:.1f} {y - 3.5:.1f}h7v7h-7z" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _diamond(x: float, y: float, colour: str) -> str:
    return (
        f'<path d="M{x:.1f} {y - 4.5:.1f}l4.5 4.5-4.5 4.5-4.5-4.5z" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    )


def _dash(x: float, y: float, colour: str, half: float = 5.0) -> str:
    return (
        f'<path d="M{x - half:.1f} {y:.1f}h{2 * half:.1f}" stroke="{colour}" stroke-width="2" stroke-dasharray="4 2"/>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _text(x: float, y: float, said: str, anchor: str = "middle", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} fill="#333">{escape(said)}</text>'
