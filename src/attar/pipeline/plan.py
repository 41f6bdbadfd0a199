"""The dry run of a cut: what a budget would take of a network, before anything is trained or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.pipeline.session import built
from attar.pipeline.weights import load_weights
from attar.prune import Context, Cut, Pruner
from attar.recipe import Budget


@dataclass(frozen=True)
class Planned:
    """A cut that was planned and proved on a network that is gone."""

    cut: Cut
    smallest: dict[str, int]
    """The least of every counted cost that can be reached."""
    seconds: tuple[float, float] | None
    """Of a batch before and after, where latency is limited."""
    whole: dict[str, str]
    """Groups that stay whole -> why."""
    reports: tuple[str, ...]
    """What else the user should know about the network."""


def plan(
    model: str,
    arguments: dict[str, Any],
    shape: Sequence[int],
    classes: int,
    budget: Budget,
    weights: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Planned:
    """Build a network as a run does, cut it to the budget, prove the cut, and tell what went.

    Args:
        model, arguments: its builder's.
        shape: channels, height and width of one image.
        classes: how many.
        budget: the limits.
        weights: trained ones to rank by; random without.
        settings: of `attar.prune.Pruner`.

    Raises:
        ValueError: an unknown name, weights that do not fit, or a budget that cannot be met (with the smallest that can).
    """
    torch.manual_seed(0)
    network = built(model, arguments, shape[0], classes)
    if weights is not None:
        load_weights(network, weights, "--weights")
    return planned(Pruner(network, torch.randn(2, *shape), **(settings or {})), budget)


def planned(pruner: Pruner, budget: Budget, context: Context | None = None) -> Planned:
    """Cut the pruner's network to the budget; arguments and errors as for `Pruner.step`."""
    smallest = pruner.minimum().as_dict()
    timed = "latency" in budget.limited
    before = pruner.latency(budget.batch, budget.threads).seconds if timed else 0.0
    cut = pruner.step(budget, context)
    seconds = (before, pruner.latency(budget.batch, budget.threads).seconds) if timed else None
    whole = {group.name: group.protected for group in pruner.groups if group.protected}
    return Planned(cut, smallest, seconds, whole, pruner.reports)
