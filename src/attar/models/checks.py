"""Checks of builder arguments: what a user gets wrong is named, with the value and the way out."""

from collections.abc import Sequence
from typing import Any

LARGEST = 1 << 20
"""No width, class count or depth beyond this is taken for meant."""


def positive(name: str, value: Any, largest: int = LARGEST) -> int:
    """Return `value` if it is an int in 1..largest; raises ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise ValueError(f"{name} must be a whole number from 1 to {largest}, not {value!r}")
    return value


def positives(name: str, values: Any, length: int, largest: int = LARGEST) -> tuple[int, ...]:
    """Return `values` as a tuple of `length` ints in 1..largest; raises ValueError that names the argument."""
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != length:
        raise ValueError(f"{name} must be {length} whole numbers, one for each stage, not {values!r}")
    return tuple(positive(f"{name}[{i}]", value, largest) for i, value in enumerate(values))


def fraction(name: str, value: Any) -> float:
    """Return `value` if it is a number in [0, 1); raises ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1, not {value!r}")
    return float(value)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the allowed words; raises ValueError that lists them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def rename(arguments: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Arguments with attar's words put into the library's; raises ValueError where one is there in both."""
    renamed = {names.get(key, key): value for key, value in arguments.items()}
    if len(renamed) != len(arguments):
        raise ValueError(f"an argument is given twice, in attar's word and the library's: {', '.join(arguments)}")
    return renamed
