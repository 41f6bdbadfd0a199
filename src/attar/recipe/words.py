"""Wording of errors about names."""

from __future__ import annotations

from attar.names import closest


def no_such_key(key: str, allowed: list[str]) -> str:
    """What to say of an unknown key."""
    return f"no such key {key!r}{closest(key, allowed)}; allowed here: {', '.join(allowed)}"
