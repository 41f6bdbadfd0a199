"""A recipe written as TOML, to be shown, kept with a run and given to `attar run`."""

from __future__ import annotations

import json
import re
from typing import Any

from attar.recipe.types import Recipe


def recipe_toml(recipe: Recipe, whole: bool = False) -> str:
    """The recipe as TOML text that `load_recipe` reads back as the same recipe.

    Args:
        recipe: a checked recipe.
        whole: spell out every default too; otherwise only what differs from them.
    """
    return "\n".join(_table(recipe.model_dump(mode="json", exclude_defaults=not whole), ())).lstrip("\n") + "\n"


def _table(values: dict[str, Any], place: tuple[str, ...]) -> list[str]:
    """Lines of a table: its own values first, then the tables in it. TOML has no null: absent keys are None."""
    given = {key: value for key, value in values.items() if value is not None}
    plain = [f"{_key(key)} = {_value(value)}" for key, value in given.items() if not isinstance(value, dict)]
    header = ["", f"[{'.'.join(map(_key, place))}]"] if place and (plain or not given) else []
    inner = [line for key, value in given.items() if isinstance(value, dict) for line in _table(value, (*place, key))]
    return header + plain + inner


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(value: Any) -> str:
    """As JSON has it, whose escapes are TOML's; but TOML wants one for a character that JSON lets stand."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        given = [f"{_key(key)} = {_value(inner)}" for key, inner in value.items() if inner is not None]
        return "{ " + ", ".join(given) + " }"
    if isinstance(value, float):
        return repr(value)
    return _text(value)
