"""Wording of errors about names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? ` for the closest allowed word, or nothing."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""


def no_such_key(key: str, allowed: list[str]) -> str:
    """What to say of an unknown key."""
    return f"no such key {key!r}; {did_you_mean(key, allowed)}allowed here: {', '.join(allowed)}"
