"""What operations get and give: values that the page computes, and the translator that they add steps to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class NotRunnableError(ValueError):
    """The page's interpreter cannot run this network; the message says why, for people."""


@dataclass(frozen=True)
class Value:
    """A tensor of the running network: always float32 and contiguous."""

    id: int
    shape: tuple[int, ...]


Operand = Value | Tensor | float


class Steps(Protocol):
    """Where the operations put what they become."""

    def step(self, kind: str, inputs: Sequence[Value | None], shape: Sequence[int], **attributes: Any) -> Value:
        """Add a step; its result."""

    def value(self, operand: Operand) -> Value:
        """What a step can read."""

    def view(self, target: Callable[..., Any], value: Value, *args: Any, **kwargs: Any) -> Any:
        """Move data as `target` does."""


def need(condition: bool, what: str) -> None:
    """Raise NotRunnableError unless the operation is used as the interpreter can run it."""
    if not condition:
        raise NotRunnableError(f"the page's interpreter has no {what}")


def pair(values: int | Sequence[int]) -> list[int]:
    """Height and width of what torch takes as one number or two."""
    both = [values] if isinstance(values, int) else list(values)
    return both * 2 if len(both) == 1 else both


def single(values: int | Sequence[int]) -> int:
    """The one number of what torch takes as a number or a list of one."""
    return values if isinstance(values, int) else next(iter(values))
