"""A run over several ranks: its folder, which the first one reads and writes, and what is checked before it begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from attar.pipeline.folder import RunError, RunFolder, Tensors
from attar.pipeline.session import still_to_teach
from attar.recipe import Recipe, RecipeError, Training
from attar.train import Ranks


class RankFolder(RunFolder):
    """All ranks call the same methods in the same order; only the first one's folder need exist."""

    def __init__(self, own: RunFolder, ranks: Ranks) -> None:
        """
        Args:
            own: the folder, which the first rank has locked; the others leave it alone.
            ranks: connected.
        """
        super().__init__(own.path)
        self._own, self._ranks = own, ranks

    def adopt(self, recipe: Recipe, facts: dict[str, Any]) -> dict[str, Any]:
        adopted: dict[str, Any] = self._ranks.tell_plain(lambda: self._own.adopt(recipe, facts))
        return adopted

    def finished(self, stage: str) -> bool:
        return bool(self._ranks.tell_plain(lambda: self._own.finished(stage)))

    def result(self, stage: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, numbers = self._ranks.tell(lambda: self._own.result(stage))
        return dict(tensors), numbers

    def numbers(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ranks.tell_plain(lambda: self._own.numbers(stage))
        return found

    def resume(self, stage: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        tensors, numbers = self._ranks.tell(lambda: self._own.resume(stage) or ({}, None))
        return None if numbers is None else (dict(tensors), numbers)

    def under_way(self, stage: str) -> bool:
        return bool(self._ranks.tell_plain(lambda: self._own.under_way(stage)))

    def begin(self, stage: str) -> None:
        if self._ranks.first:
            self._own.begin(stage)

    def finish(self, stage: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
        if self._ranks.first:
            self._own.finish(stage, tensors, numbers)

    def checkpoint(self, stage: str, tensors: Tensors, numbers: dict[str, Any]) -> None:
        if self._ranks.first:
            self._own.checkpoint(stage, tensors, numbers)

    def log(self, **values: Any) -> None:
        if self._ranks.first:
            self._own.log(**values)

    def show(self, points: Sequence[dict[str, Any]]) -> None:
        if self._ranks.first:
            self._own.show(points)

    def write_text(self, name: str, content: str) -> None:
        if self._ranks.first:
            self._own.write_text(name, content)


def check_batches(recipe: Recipe, images: int, ranks: Ranks) -> None:
    """See that every rank has an image of every batch.

    Raises:
        RecipeError: naming the table whose batches are too small.
    """
    for place, training in trainings(recipe):
        batch = min(training.batch, images)
        if batch < ranks.count:
            raise RecipeError(
                f"{place}: a batch of {batch} images cannot be shared by {ranks.count} ranks; start fewer, or make batch larger"
            )


def trainings(recipe: Recipe) -> Iterator[tuple[str, Training]]:
    """All calls of the loop that a recipe asks for, with their places in it."""
    prune = recipe.prune
    found: list[tuple[str, Training | None]] = [("distil.train", recipe.distil.train)]
    if recipe.teacher_network is not None:
        found += [(f"{part.place}.train", part.network.train) for part in still_to_teach(recipe.teacher_network)]
    if prune is not None:
        found += [("prune.train", prune.train), ("prune.final", prune.final)]
        found += [("prune.sparse.train", prune.sparse.train)] if prune.sparse is not None else []
    yield from ((place, training) for place, training in found if training is not None)


def check_agreed(ranks: Ranks, recipe: Recipe, facts: dict[str, Any]) -> None:
    """See that all ranks have the same recipe, data and versions.

    Raises:
        RankError: they have not.
    """
    everything = [
        recipe.model_dump(mode="json"),
        facts["data"]["fingerprint"],
        facts["split"],
        facts["environment"]["versions"],
    ]
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).digest()
    ranks.check_same("the recipe, the data or a version (attar, torch)", digest)


def refuse_ranks(what: str) -> None:
    """See that this process is alone.

    Raises:
        RunError: torchrun started it beside others.
    """
    if (count := Ranks.here().count) > 1:
        raise RunError(
            f"{what} runs in one process and torchrun started {count}; only `attar run` goes over several ranks"
        )
