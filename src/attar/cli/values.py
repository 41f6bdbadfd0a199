"""What is given on the command line, as the rest of attar wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def default_folder(name: str) -> Path:
    """Where a run or a sweep of this name goes that is given no --out."""
    return Path("runs") / name


def limit(text: str | None) -> int | str | None:
    """A limit as the budget wants it: digits are a count, anything else is left for it to read."""
    return int(text.replace("_", "")) if text is not None and text.replace("_", "").isdecimal() else text


def numbers(text: str, option: str, count: int | None = None) -> list[int]:
    """`9,19,39` as integers.

    Raises:
        ValueError: not whole positive numbers, or not `count` of them.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or count not in (None, len(parts)):
        wanted = f"{count} whole numbers" if count else "whole numbers"
        raise ValueError(f"{option} {text!r}: give {wanted} above 0, separated by commas")
    return [int(part) for part in parts]


def arguments(pairs: list[str]) -> dict[str, Any]:
    """`widths=[8,16]` as a builder's arguments; values as in TOML, bare words are strings.

    Raises:
        ValueError: a pair has no key or no value.
    """
    from attar.recipe import value_of

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise ValueError(f"argument {pair!r}: write it as key=value, for example widths=[16,32,64]")
        found[key] = value_of(text)
    return found


def builder_arguments(widths: str | None, pairs: list[str] | None) -> dict[str, Any]:
    """What `--widths` and `--argument` say."""
    return arguments(pairs or []) | ({} if widths is None else {"widths": numbers(widths, "--widths")})
