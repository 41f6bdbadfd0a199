"""A whole run from a few words: a recipe with defaults that suit the size of the data."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attar.data import ImageData
from attar.pipeline.session import network_spec
from attar.recipe import Budget, Recipe, RecipeError, check_recipe
from attar.recipe.types import Network

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WARMUP = 0.1
"""Share of a fresh network's epochs in which its rate rises."""
PRUNING_SHARE, STEPS = 0.4, 10
"""Share of the epochs that go to the steps of pruning, the rest to the last fine-tuning; and how many steps."""


@dataclass(frozen=True)
class Wish:
    """What `attar compress` was asked for."""

    teacher: str
    weights: str
    data: dict[str, Any]
    """The recipe's [data] table, without what is held out."""
    budget: Budget | None = None
    teacher_arguments: dict[str, Any] = field(default_factory=dict)
    student: str | None = None
    """A builder; None for the teacher itself, pruned with itself as teacher."""
    student_arguments: dict[str, Any] = field(default_factory=dict)
    epochs: float | None = None
    """Passes over the training images, all stages together; by default as many as suit the data's size."""
    steps: int | None = None
    """Of pruning; as many as usual by default."""


def compress_recipe(wish: Wish, data: ImageData) -> Recipe:
    """The recipe that a wish and the data come to; the same for the same wish and data.

    Epochs fall with the square root of the number of images (20 for 50,000, at most 60, at least 4). Networks with
    BatchNorm learn by SGD, others by AdamW.

    Raises:
        RecipeError: the wish contradicts itself, or names a network that cannot be built.
    """
    if wish.student is None and wish.budget is None:
        raise RecipeError("nothing to do: give a limit (--params, --macs, --bytes, --latency), a --student, or both")
    if wish.epochs is not None and not wish.epochs > 0:
        raise RecipeError(f"--epochs {wish.epochs:g}: give a number above 0, or leave it out")
    count = len(data.images)
    held_out = min(5000, max(data.classes, count // 10), count - data.classes)
    images = count - held_out
    usual = float(round(min(60.0, max(4.0, 20 * math.sqrt(50_000 / images)))))
    epochs = usual if wish.epochs is None else wish.epochs
    teacher = {"model": wish.teacher, "arguments": wish.teacher_arguments, "weights": wish.weights}
    student = teacher if wish.student is None else {"model": wish.student, "arguments": wish.student_arguments}
    batch = 128 if images >= 5000 else 64 if images >= 500 else 16
    train = training(_by_sgd(student, data), wish.student is not None, batch)
    share = epochs / 2 if wish.student is not None and wish.budget is not None else epochs
    distil = {} if wish.student is None else {"train": {**train, "epochs": share, "warmup": share * WARMUP}}
    values: dict[str, Any] = {
        "name": run_name(wish.student or wish.teacher),
        "data": {**wish.data, "held_out": held_out},
        "augment": _augment(data),
        "teacher": teacher,
        "student": student,
        "distil": distil,
    }
    if wish.budget is not None:
        count = wish.steps or STEPS
        between = PRUNING_SHARE if count > 1 else 0.0  # what follows the last step is the last fine-tuning
        step = {**train, "learning_rate": train["learning_rate"] / 2}
        values["prune"] = {
            "budget": wish.budget,
            "steps": count,
            "allocation": "global",
            "train": {**step, "epochs": _rounded((between or PRUNING_SHARE) * share / max(1, count - 1))},
            "final": {**step, "epochs": _rounded((1 - between) * share)},
        }
    return check_recipe(values, where="compress")


def _rounded(epochs: float) -> float:
    """To four digits, as somebody would write it."""
    return float(f"{epochs:.4g}")


def run_name(builder: str) -> str:
    """What a run is called that compresses a builder's network, fit for a folder: `hf:./folder` holds a path."""
    return re.sub(r"[^\w.-]+", "-", f"{builder}-compressed")


def _by_sgd(network: dict[str, Any], data: ImageData) -> bool:
    """Whether the network has BatchNorm; transformers and their like, which have not, want AdamW."""
    settings = Network.model_validate({key: value for key, value in network.items() if key != "weights"})
    try:
        model = network_spec(settings, data.image_shape[0], data.classes).build()
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return any(isinstance(module, NORMS) for module in model.modules())


def training(by_sgd: bool, fresh: bool, batch: int) -> dict[str, Any]:
    """Optimiser and rates for a batch of that size; a network that is trained already takes smaller steps than a fresh one."""
    scale = batch / 128
    if by_sgd:
        return {"batch": batch, "learning_rate": (0.1 if fresh else 0.04) * scale, "ema": 0.99}
    rate = (1e-3 if fresh else 2e-4) * scale
    return {
        "optimiser": "adamw",
        "batch": batch,
        "learning_rate": rate,
        "weight_decay": 0.05,
        "clip": 1.0,
        "ema": 0.99,
    }


def _augment(data: ImageData) -> dict[str, Any]:
    """Crops in proportion to the image; digits are not what they were when flipped."""
    height = data.image_shape[1]
    return {"crop_padding": max(1, round(height / 14)), "flip": 0.0 if data.name == "digits" else 0.5, "erase": 0.25}
