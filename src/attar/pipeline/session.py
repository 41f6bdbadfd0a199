"""What every stage of a run works with, made once at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from attar.artifact.shape import shaped
from attar.data import ImageData, Mixup, Shards, Split, Views, home_of
from attar.distil import ShippedOutputs
from attar.distil.ensemble import Ensemble
from attar.models import BuilderSpec, configured
from attar.pipeline.folder import RunFolder
from attar.pipeline.watch import Watcher
from attar.recipe import Recipe, Training
from attar.recipe.types import Member, Network, Student, Teacher
from attar.train import ALONE, Machine, Ranks, accuracy, steps_for

MEMBER = 1_000_003
"""Added to the seed for each further member of an ensemble: no sweep over seeds comes that far."""


@dataclass(frozen=True)
class Session:
    """A run under way."""

    recipe: Recipe
    folder: RunFolder
    data: ImageData
    split: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    machine: Machine
    watcher: Watcher
    ranks: Ranks = ALONE
    """The processes that do this run together."""
    captured: list[Any] = field(default_factory=list)
    """The engine on a fresh student, once the check before the run has made it: capturing takes seconds."""
    shipped: list[ShippedOutputs] = field(default_factory=list)
    """The file in the teacher's place, once it is read and checked."""
    compared: set[str] = field(default_factory=set)
    """Keys of the pools that were held against the live teacher: once a run, not in every stage."""

    @cached_property
    def views(self) -> Views:
        """Views of the training images."""
        data, memory = self.data, self.recipe.data.in_memory << 20
        if data.store is None or data.images.nbytes <= memory:
            return self._views_of(data.images, data.labels)
        return self._views_of(Shards(data.store, data.images.shape, memory, home_of(self.machine.device)), data.labels)

    @cached_property
    def student_views(self) -> Views:
        """The views that the student and, for its sake, the teacher look at; mixed if the recipe says so."""
        strength = self.recipe.distil.mixup
        if not strength:
            return self.views
        mixup = Mixup(strength, self.split.train, self.data.classes)
        return self._views_of(self.views.images, self.views.labels, mixup)

    @cached_property
    def test_views(self) -> Views:
        """The test images, for the one reading at the end."""
        return self._views_of(self.data.test_images, self.data.test_labels)

    def _views_of(self, images: torch.Tensor | Shards, labels: torch.Tensor, mixup: Mixup | None = None) -> Views:
        recipe, device = self.recipe, self.machine.device
        return Views(images, labels, recipe.augment, recipe.view_seed, device, self.mean, self.std, recipe.seed, mixup)

    @property
    def example(self) -> torch.Tensor:
        """A batch of two blank images of the data's shape, float32, on the CPU."""
        return torch.zeros(2, *self.data.image_shape)

    def some_samples(self, count: int) -> torch.Tensor:
        """int64 indices of `count` training images (all, if there are fewer), evenly spaced: folders are in class order."""
        samples = self.split.train
        count = min(count, len(samples))
        return samples[torch.arange(count) * len(samples) // count]

    def spec(self, network: Network) -> BuilderSpec:
        """The builder of a teacher or student of this run."""
        return network_spec(network, self.data.image_shape[0], self.data.classes)

    @property
    def own_builder(self) -> list[str]:
        """The student's builder, which the run's own artifact may call since the user named it himself."""
        return [self.spec(self.recipe.student).name]

    def build(self, network: Network, number: int = 0) -> torch.nn.Module:
        """The freshly initialised network; the same weights for the same seed and number (of an ensemble's member)."""
        if isinstance(network, Teacher) and network.members:
            return Ensemble([self.build(member, number) for number, member in enumerate(network.members)])
        torch.manual_seed((self.recipe.seed + number * MEMBER) % 2**32)
        model = self.spec(network).build()
        shape = network.shape if isinstance(network, Student) else None
        return model if shape is None else shaped(model, shape)

    def held_out_accuracy(self, model: torch.nn.Module) -> float | None:
        """Accuracy on the held-out images, 0 to 1; None where nothing is held out."""
        samples = self.split.held_out
        if len(samples) == 0:
            return None
        return accuracy(model, self.views, samples, self.data.labels[samples], self.machine, self.ranks)

    def work(self, training: Training) -> float:
        """Images that a call of the loop will see."""
        samples = len(self.split.train)
        return steps_for(training, samples) * min(training.batch, samples)


class Part(NamedTuple):
    """One of the networks that make up a teacher."""

    place: str
    """In the recipe: `teacher`, or `teacher.members[0]` and so on."""
    stage: str
    """In which it is taught: `teach`, or `teach-1` and so on."""
    network: Teacher | Member


def parts_of(teacher: Teacher) -> list[Part]:
    """The teacher itself, or the members of an ensemble in their order: what is built, taught and kept one by one.

    Where the ensemble brings weights, these stand for its members' own, which are neither read nor taught.
    """
    if not teacher.members:
        return [Part("teacher", "teach", teacher)]
    members = teacher.members
    if teacher.weights is not None:
        members = tuple(member.model_copy(update={"weights": None, "train": None}) for member in members)
    return [Part(f"teacher.members[{n}]", f"teach-{n + 1}", member) for n, member in enumerate(members)]


def still_to_teach(teacher: Teacher) -> list[Part]:
    """Those of its parts that a run trains, as no weights of theirs were brought."""
    return [part for part in parts_of(teacher) if part.network.weights is None and part.network.train]


def network_spec(network: Network, channels: int, classes: int) -> BuilderSpec:
    """The builder of a network, told the data's channels and classes unless the recipe says otherwise."""
    shape = {"in_channels": channels, "classes": classes}
    if ":" in network.model and not network.model.startswith(("attar:", "timm:", "torchvision:", "hf:")):
        shape = {}  # a function of the user's may call these anything
    return BuilderSpec(*configured(network.model, {**shape, **network.arguments}))


def built(model: str, arguments: dict[str, Any], channels: int, classes: int) -> torch.nn.Module:
    """The network of that builder as a run on such data builds it, with fresh weights; raises ValueError as `build`."""
    return network_spec(Network(model=model, arguments=arguments), channels, classes).build()
