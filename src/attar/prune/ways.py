"""Ways to run a cut network: its own code with its numbers mended, ever more daringly where it stops; at last the graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from attar.prune.attributes import Levels, bolder, calls_noted

ATTEMPTS = 16
"""Most ways of mending numbers that are tried before the graph takes over."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Way:
    """Who runs a cut network."""

    mode: str = "module"
    """`module`: its own code; `graph`: the captured graph."""
    levels: Levels = field(default_factory=dict)
    """How daringly the numbers of each class of modules are mended."""

    def encoded(self) -> torch.Tensor:
        """uint8 (bytes,): JSON, to stand among the tensors of a state."""
        return torch.tensor(list(json.dumps([self.mode, self.levels], sort_keys=True).encode()), dtype=torch.uint8)

    @staticmethod
    def decoded(tensor: torch.Tensor) -> Way:
        mode, levels = json.loads(bytes(tensor.tolist()))
        return Way(mode, levels)


class WayError(RuntimeError):
    """No way of running the cut network is right; the message says what was wrong with each."""


class Differs(RuntimeError):
    """A cut network answered, but not what it should."""


def first_that_works(start: Way, attempt: Callable[[Way], Result]) -> tuple[Way, Result, str]:
    """Try ways from `start` on until `attempt` raises nothing; returns the way, its result and why earlier ones failed.

    Raises:
        WayError: all of them raise.
    """
    way: Way | None = start
    problems: list[str] = []
    for _ in range(ATTEMPTS):
        assert way is not None
        try:
            with calls_noted() as chain:
                return way, attempt(way), "; ".join(problems)
        except Exception as problem:
            problems.append(f"{way.mode}: {type(problem).__name__}: {problem}")
            if way.mode == "graph":
                break
            levels = None if isinstance(problem, Differs) else bolder(way.levels, list(chain))
            in_vain = len(problems) > 3 and len(set(problems[-4:])) == 1
            last = levels is None or in_vain or len(problems) == ATTEMPTS - 1
            way = Way("graph", way.levels) if last else Way("module", levels)  # type: ignore[arg-type]
    raise WayError("; ".join(dict.fromkeys(problems)))
