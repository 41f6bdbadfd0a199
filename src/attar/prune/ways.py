"""Ways to run a cut network: its own code with its numbers mended, ever more daringly where it stops; then parts of it by
their captured graph; at last the whole graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from attar.prune.attributes import Levels, bolder, calls_noted

ATTEMPTS = 32
"""Most ways of mending numbers that are tried before it is given up."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Way:
    """Who runs a cut network."""

    mode: str = "module"
    """`module`: its own code, apart from the parts that `levels` names; `graph`: the captured graph."""
    levels: Levels = field(default_factory=dict)
    """How daringly the numbers of each class of modules are mended, and which classes run their part of the graph."""


class WayError(RuntimeError):
    """No way of running the cut network is right; the message says what was wrong with each."""


class Differs(RuntimeError):
    """A cut network answered, but not what it should."""


class Again(RuntimeError):
    """This way would do the same as one that was tried."""


def first_that_works(
    start: Way, attempt: Callable[[Way], Result], prepare: Callable[[Way], object]
) -> tuple[Way, Result, str]:
    """Try ways from `start` on until `attempt` raises nothing; returns the way, its result and why earlier ones failed.

    `prepare` comes before each attempt; the modules that it runs are not noted.

    Raises:
        WayError: all of them raise.
    """
    way = start
    problems: list[str] = []
    chain: list[nn.Module] = []
    for _ in range(ATTEMPTS):
        prepare(way)
        try:
            with calls_noted() as running:
                return way, attempt(way), "; ".join(dict.fromkeys(problems))
        except Again:
            pass
        except Exception as problem:
            problems.append(f"{way.mode}: {type(problem).__name__}: {problem}")
            chain = [] if isinstance(problem, Differs) else list(running)
        if way.mode == "graph":
            break
        levels = bolder(way.levels, chain)
        way = Way("graph", way.levels) if levels is None else Way("module", levels)
    raise WayError("; ".join(dict.fromkeys(problems)))
