"""Reading a recipe: TOML text and overrides in, a checked `Recipe` out, or an error that names the place and the way out."""

from __future__ import annotations

import json
import re
import tomllib
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from attar.names import closest
from attar.recipe.types import Recipe
from attar.recipe.words import no_such_key

Place = tuple[str | int, ...]

WORDS = {
    "tuple_type": "a list",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "string_type": "text",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "dataclass_type"), "a table"),
    "dataclass_exact_type": "a table",
}
"""What a value should be, in TOML's words, by pydantic's name for the fault."""


class RecipeError(ValueError):
    """The recipe cannot be run as written; the message says where, what is allowed and what may have been meant."""


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: the TOML file.
        overrides: `key=value` pairs such as `distil.temperature=2`, applied on top of the file.

    Raises:
        RecipeError: the file is not there, is not TOML, or does not say a valid recipe.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in (*Path("recipes").glob("*.toml"), *path.parent.glob("*.toml")))
        hint = f"; there is {', '.join(dict.fromkeys(near))}" if near else ""
        raise RecipeError(f"no recipe at {path}{hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that some editors begin with
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    for override in overrides:
        _override(values, override)
    given = list(dict.fromkeys(tuple(map(_number, key_parts(override.partition("=")[0]))) for override in overrides))
    lines = {place: line for place, line in _lines(text).items() if place not in given}
    return check_recipe(values, where=str(path), lines=lines, given=given)


def check_recipe(
    values: dict[str, Any],
    where: str = "recipe",
    lines: dict[Place, int] | None = None,
    given: Collection[Place] = (),
) -> Recipe:
    """Check a recipe given as nested dictionaries.

    Args:
        values: the recipe.
        where: it was read.
        lines: of tables and keys there.
        given: places whose values were not read there but given on top.

    Raises:
        RecipeError: listing every fault with its place.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        faults = [_explain(fault, where, lines or {}, given) for fault in error.errors()]
        raise RecipeError("\n".join(dict.fromkeys(faults))) from None


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A recipe with `key=value` overrides applied; raises RecipeError as `load_recipe` does."""
    values = recipe.model_dump(mode="json")
    for override in overrides:
        _override(values, override)
    return check_recipe(values) if overrides else recipe


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The lines that tell two recipes apart, e.g. `distil.temperature: 4.0 -> 2.0`."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return found


def value_of(text: str) -> Any:
    """A value as TOML has it; a bare word is a string: compute.device=cpu."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    parts = key_parts(key)
    if not equals or not all(parts):
        raise RecipeError(f"override {override!r}: write it as key=value, for example distil.temperature=2")
    table: Any = values
    for depth, part in enumerate(parts[:-1]):
        where = _position(table, parts[:depth], part, override)
        if isinstance(table, dict) and table.get(part) is None:  # a table that is absent, or None in a dumped recipe
            table[part] = {}
        table = table[where]
    table[_position(table, parts[:-1], parts[-1], override)] = value_of(raw)


def key_parts(key: str) -> list[str]:
    """Of a key with dots, which TOML lets stand within quotes: floors."conv1.weight"."""
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:  # a name that TOML wants quoted, such as conv*
        return key.strip().split(".")
    parts = []
    while isinstance(table, dict) and table:
        ((part, table),) = table.items()
        parts.append(part)
    return parts or [key]  # none in a comment


def _position(table: Any, above: list[str], part: str, override: str) -> str | int:
    """What `part` is in the table or list that lies at `above`; raises RecipeError where neither is there."""
    if isinstance(table, dict):
        return part
    place = ".".join(above)
    if not isinstance(table, list):
        raise RecipeError(f"override {override!r}: {place} is a value, not a table")
    if not part.isdecimal() or int(part) >= len(table):
        there = f"its entries are {place}.0 to {place}.{len(table) - 1}" if table else "it has none"
        raise RecipeError(f"override {override!r}: {place} is a list and has no entry {part!r}; {there}")
    return int(part)


def _lines(text: str) -> dict[Place, int]:
    """Line numbers of tables and keys, as far as a plain scan tells them (tomllib keeps none)."""
    lines: dict[Place, int] = {}
    tables: dict[Place, int] = {}  # in each list of them, so far

    def place(parts: Sequence[str]) -> Place:
        """In a list of tables, what follows belongs to the last one."""
        found: Place = ()
        for part in parts:
            found = (*found, part) if found not in tables else (*found, tables[found] - 1, part)
        return found

    table: Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", line):
            table = place(key_parts(header[2]))
            if header[1] == "[[":
                lines.setdefault(table, number)
                tables[table] = tables.get(table, 0) + 1
            if table in tables:
                table = (*table, tables[table] - 1)
            lines.setdefault(table, number)
        elif key := re.match(r"\s*([A-Za-z0-9_.\-\"']+)\s*=", line):
            lines.setdefault((*table, *key_parts(key[1])), number)
    return lines


def _explain(fault: Any, where: str, lines: dict[Place, int], given: Collection[Place]) -> str:
    place: Place = tuple(fault["loc"])
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    dotted = ".".join(str(part) for part in place) or "the whole recipe"
    start = f"{where}{f':{line}' if line else ''}: {dotted}"
    end = ""
    if any(place[: len(key)] == key for key in given):
        start, end = dotted, f" (given on top of {where})"
    elif below := [".".join(map(str, key)) for key in given if key[: len(place)] == place]:
        end = f" (with {', '.join(below)} given on top)"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{start}: {no_such_key(str(place[-1]), _keys_at(place[:-1]))}{end}"
    if kind == "missing":
        return f"{start}: must be given{end}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        hint = closest(str(fault["input"]), allowed)
        return f"{start} = {fault['input']!r}{hint}; allowed: {', '.join(allowed)}{end}"
    message = _words(kind, place) or (str(context["error"]) if "error" in context else fault["msg"])
    shown = fault["input"]
    value = "" if isinstance(shown, dict | BaseModel) or not place else f" = {shown!r}"
    return f"{start}{value}: {message[:1].lower()}{message[1:]}{end}"


def _words(kind: str, place: Place) -> str:
    """What a value should be, as TOML has it; nothing for faults that are not of its type."""
    if kind == "tuple_type" and _keys_at(place):
        return f"should be a list of tables: write [[{'.'.join(map(str, place))}]]"
    return f"should be {WORDS[kind]}" if kind in WORDS else ""


def _number(part: str | int) -> str | int:
    """Entries of lists are numbers in a fault's place."""
    return int(part) if isinstance(part, str) and part.isdecimal() else part


def _keys_at(place: Place) -> list[str]:
    """The keys that the recipe's types allow in the table at `place`."""
    kind: Any = Recipe
    for part in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
            kind = _table_type(kind.model_fields[str(part)].annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return []


def _table_type(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0]
    return annotation
