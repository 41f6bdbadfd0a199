"""The budget: hard limits on what the student may cost."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction

from attar.names import closest

KINDS = ("params", "macs", "bytes", "latency")
"""What a budget may limit: parameters, MACs of one sample, bytes of the weights file, seconds of a batch."""

Limit = int | float | str | None
_COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_TIME_UNITS = {"": Fraction(1), "s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6)}
_WHOLE = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9][0-9_]*"  # a comma in any other place may mean a point
_NUMBER = re.compile(rf"\s*((?:{_WHOLE})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{{1,3}})?|\.[0-9]+)\s*([A-Za-z%]*)\s*")


@dataclass(frozen=True)
class Budget:
    """Hard limits, several at once if wanted; the student is at or under each of them.

    A limit is a number (`100_000`), a number with a unit (`"100k"`, `"1.5M"`; `"5ms"` for latency), or a share of what
    the uncut network costs (`"25%"`). Raises ValueError for a limit that is none of these, or when nothing is limited.
    """

    params: Limit = None
    """Parameters of the network."""
    macs: Limit = None
    """Multiply-accumulates of one sample."""
    bytes: Limit = None
    """Bytes of the file of weights that ships: safetensors with its header, parameters and buffers at their dtype."""
    latency: Limit = None
    """Seconds of one forward pass of a batch, the median measured on this machine."""
    batch: int = 1
    """Samples in the batch whose latency is measured."""
    threads: int = 1
    """Threads that latency is measured with."""

    def __post_init__(self) -> None:
        for kind in KINDS:
            if getattr(self, kind) is not None:
                _parse(kind, getattr(self, kind))
        if not self.limited:
            raise ValueError(f"the budget limits nothing: give at least one of {', '.join(KINDS)}, e.g. params=100_000")
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number of at least 1")

    @property
    def limited(self) -> tuple[str, ...]:
        """The kinds that carry a limit, in the order of `KINDS`."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    def resolve(self, original: Mapping[str, float]) -> dict[str, float]:
        """The limits as absolute figures, given what the uncut network costs.

        `original` maps kinds to figures; one that is limited by a share must be there, or ValueError is raised. Counts
        come back as ints, rounded down; latency as seconds.
        """
        limits: dict[str, float] = {}
        for kind in self.limited:
            value, share = _parse(kind, getattr(self, kind))
            if share:
                if kind not in original:
                    raise ValueError(
                        f"{kind}={getattr(self, kind)!r} is a share, but the network's {kind} is not known"
                    )
                value *= Fraction(original[kind])
            limits[kind] = float(value) if kind == "latency" else math.floor(value)
        return limits

    def schedule(self, original: Mapping[str, float], steps: int, shape: str = "geometric") -> list[dict[str, float]]:
        """The limits after each of `steps` steps, from the network's own cost down to `resolve`'s figures.

        `original` must hold every limited kind. `geometric` cuts the same share in every step, `linear` the same
        amount. A limit that already holds is the same in every step.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}: a schedule has at least one step")
        if shape not in ("geometric", "linear"):
            raise ValueError(f"schedule={shape!r}: give 'geometric' or 'linear'")
        final = self.resolve(original)
        if missing := [kind for kind in final if kind not in original]:
            raise ValueError(f"a schedule needs the network's own {' and '.join(missing)}")
        return [
            {kind: _between(kind, original[kind], limit, step / steps, shape) for kind, limit in final.items()}
            for step in range(1, steps + 1)
        ]

    def __str__(self) -> str:
        parts = []
        for kind in self.limited:
            value = getattr(self, kind)
            if not isinstance(value, str):
                value = format(int(value) if value == int(value) else value, ",")
            parts.append(f"{kind} <= {value}")
        return ", ".join(parts)


def as_budget(given: Budget | Mapping[str, Limit]) -> Budget:
    """The budget itself, or the one of these limits; ValueError for what is neither."""
    if isinstance(given, Budget):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"budget={given!r:.100} does not say what is limited: give attar.Budget(params='50%'), for example"
        )
    known = [field.name for field in fields(Budget)]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"a budget has no {unknown[0]!r}{closest(str(unknown[0]), known)}; it has {', '.join(known)}")
    return Budget(**given)  # type: ignore[arg-type]


def absolute(limits: Mapping[str, float]) -> dict[str, float]:
    """Limits that a mapping holds as numbers; ValueError for shares, units and what is no number, or where there is none."""
    if not limits:
        raise ValueError("the budget limits nothing: give a limit, such as {'params': 100_000}")
    for kind, limit in limits.items():
        if isinstance(limit, str):
            raise ValueError(
                f"a mapping holds absolute limits: give attar.Budget({kind}={limit!r}) for a share or a unit"
            )
        if isinstance(limit, bool) or not isinstance(limit, numbers.Real) or math.isnan(limit):
            raise ValueError(f"the budget has {kind}={limit!r}: give a number")
    return dict(limits)


def _between(kind: str, start: float, end: float, part: float, shape: str) -> float:
    """The limit when `part` of the way from `start` to `end` is done; counts are rounded down, but not below `end`."""
    if part == 1 or end >= start or end <= 0:
        return end
    value = start * (end / start) ** part if shape == "geometric" else start + (end - start) * part
    return value if kind == "latency" else max(math.floor(value), end)


def _parse(kind: str, limit: object) -> tuple[Fraction, bool]:
    """(value, is it a share of the original); ValueError for what cannot be a limit of this kind."""
    wanted = (
        "seconds, '5ms' or a share such as '50%'" if kind == "latency" else "a count, '100k' or a share such as '25%'"
    )
    if isinstance(limit, bool) or not isinstance(limit, int | float | str):
        raise ValueError(f"{kind}={limit!r} is no limit: give {wanted}")
    if isinstance(limit, str):
        return _parse_text(kind, limit, wanted)
    if not math.isfinite(limit) or limit <= 0:
        raise ValueError(f"{kind}={limit!r}: a limit is above zero and finite; give {wanted}")
    if kind != "latency" and limit < 1:
        raise ValueError(f"{kind}={limit!r} is less than one; for a share write {kind}='{100 * limit:g}%'")
    return Fraction(limit), False


def _parse_text(kind: str, text: str, wanted: str) -> tuple[Fraction, bool]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        comma = "; decimals are written '1.5M', thousands '1,500,000'" if "," in text else ""
        raise ValueError(f"{kind}={text!r} cannot be read: give {wanted}{comma}")
    value, unit = Fraction(match[1].replace(",", "").replace("_", "")), match[2]
    if unit == "%":
        if not 0 < value <= 100:
            raise ValueError(f"{kind}={text!r}: a share of the original lies above 0% and is at most 100%")
        return value / 100, True
    units: Mapping[str, Fraction | int] = _TIME_UNITS if kind == "latency" else _COUNT_UNITS
    if unit not in units:
        known = ", ".join(repr(name) for name in (*units, "%") if name)
        raise ValueError(f"{kind}={text!r}: unknown unit {unit!r}; one of {known} may follow the number")
    value *= units[unit]
    if value <= 0 or (kind != "latency" and value < 1):
        raise ValueError(
            f"{kind}={text!r}: a limit is {'above zero' if kind == 'latency' else 'at least 1'}; give {wanted}"
        )
    return value, False
