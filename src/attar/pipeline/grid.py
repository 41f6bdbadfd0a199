"""The points of a sweep: every combination of the values given, each with a name that stays the same."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from attar.recipe import Recipe, RecipeError, load_recipe
from attar.recipe.load import key_parts

LONGEST = 120
"""Characters of a point's name; a longer one is cut and told apart by a hash."""


@dataclass(frozen=True)
class Point:
    """One combination."""

    name: str
    """`distil.temperature=2,seed=0`; in use as a folder."""
    overrides: tuple[str, ...]
    recipe: Recipe


def grid(recipe: str | Path | Sequence[str | Path], axes: Sequence[str], seeds: Sequence[int] = ()) -> list[Point]:
    """Every combination of the axes' values, checked.

    Args:
        recipe: the recipe's file; of several, each is an axis's value, and its points begin with the file's name.
        axes: `key=value,value`, each value as TOML: `distil.temperature=2,4`, `student.arguments.widths=[9,19,39],[8,16,32]`.
            An axis of one value overrides the recipe at every point.
        seeds: as an axis `seed`.

    Raises:
        RecipeError: an axis cannot be read, is given twice, or a value is not allowed; naming every bad value.
    """
    table = [_axis(axis) for axis in axes] + ([("seed", [str(seed) for seed in seeds])] if seeds else [])
    keys = [key for key, _ in table]
    places = list(map(key_parts, keys))  # "seed" and seed are one
    if twice := next((key for key, place in zip(keys, places) if places.count(place) > 1), None):
        raise RecipeError(f"{twice} is given twice; write all its values in one place: {twice}=a,b")
    recipes = [recipe] if isinstance(recipe, str | Path) else list(recipe)
    points: list[Point] = []
    faults: list[str] = []
    for file, *values in product(recipes, *(values for _, values in table)):
        overrides = tuple(f"{key}={value}" for key, value in zip(keys, values))
        varied = [Path(file).stem] if len(recipes) > 1 else []
        varied += [f"{key}={value}" for (key, several), value in zip(table, values) if len(several) > 1]
        try:
            points.append(Point(point_name(varied), overrides, load_recipe(file, overrides)))
        except RecipeError as error:
            faults += [f"{', '.join(varied) or 'the only point'}: {line}" for line in str(error).splitlines()]
    if faults:
        raise RecipeError("\n".join(dict.fromkeys(faults)))
    names = [point.name for point in points]
    if same := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"two points are called {same}: a value is given twice, or recipes share a file's name")
    return points


def point_name(varied: Sequence[str]) -> str:
    """A folder's name that says what was varied: `[9, 19, 39]` becomes `9-19-39`, other odd characters `-`."""
    bare = [re.sub(r"=[^\w.%+-]+", "=", pair) for pair in varied]  # without what a list or text begins with
    name = ",".join(re.sub(r"[^\w.%=+-]+", "-", pair).strip("-") for pair in bare) or "only"
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{hashlib.sha256(','.join(varied).encode()).hexdigest()[:8]}"
    return name


def seeds_of(text: str) -> list[int]:
    """`0,1,2` as integers.

    Raises:
        RecipeError: not whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise RecipeError(f"--seeds {text!r}: give whole numbers, separated by commas")
    return [int(part) for part in parts]


def values_of(text: str) -> list[str]:
    """The values of an axis as they are written, split at commas outside brackets, braces and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in (*parts, text[start:])]


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, raw = text.partition("=")
    values = values_of(raw)
    if not equals or not key.strip() or not all(values):
        raise RecipeError(f"{text!r}: write an axis as key=value,value, for example distil.temperature=2,4")
    for value in values:
        if value[0] in "[{\"'" and not _is_toml(value):
            raise RecipeError(f"{text!r}: {value!r} is no value of TOML; a bracket or quote is missing")
    return key.strip(), values


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return False
    return True
