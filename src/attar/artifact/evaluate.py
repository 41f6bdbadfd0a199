"""Run an artifact on raw images: accuracy where classes are known, agreement with a record, probabilities for any batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from attar.artifact.description import description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.replay import TOLERANCE, logits_of
from attar.artifact.views import Runner


@dataclass(frozen=True)
class Evaluation:
    """How a network does on labelled images."""

    correct: int
    images: int
    predictions: torch.Tensor
    """int64 (images,): the class of the largest logit."""
    confidences: torch.Tensor
    """float32 (images,): the probability of that class."""

    @property
    def accuracy(self) -> float:
        """Share of images that are right, 0..1."""
        return self.correct / self.images


def evaluate(model: nn.Module | Runner, images: torch.Tensor, labels: torch.Tensor, batch: int = 256) -> Evaluation:
    """Run a loaded artifact on raw images with known classes.

    Args:
        model: as `load` or `open_view` returns it.
        images: uint8 (N, C, H, W), pixels 0..255.
        labels: int (N,), class numbers.
        batch: images at a time.

    Raises:
        ArtifactError: the network is no loaded artifact, or the images are not of its kind.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ArtifactError(f"{len(images)} images for {len(labels)} labels: there must be one label for each image")
    found = [(logits.argmax(1), logits.softmax(1).amax(1)) for logits in logits_in_batches(model, images, batch)]
    predictions, confidences = (torch.cat(parts) for parts in zip(*found))
    return Evaluation(int((predictions == labels.cpu()).sum()), len(images), predictions, confidences)


@dataclass(frozen=True)
class Agreement:
    """A network evaluated again, held against what is recorded of it."""

    hits: int
    recorded_hits: int
    n: int
    different: tuple[int, ...]
    """Images that get another class than recorded, and not for want of a decimal."""
    ties: tuple[int, ...]
    """Likewise, but the two classes' logits are the same to rounding, which differs between machines."""

    def __bool__(self) -> bool:
        return not self.different


def agreement(
    model: nn.Module | Runner, images: torch.Tensor, labels: torch.Tensor, recorded: torch.Tensor, batch: int = 256
) -> Agreement:
    """Run a loaded artifact again, and hold every single answer against the one that is recorded.

    Args:
        model, images, labels, batch: as for `evaluate`.
        recorded: int64 (N,), the class that each image got.
    """
    logits = torch.cat(list(logits_in_batches(model, images, batch)))
    said = logits.argmax(1)
    other = (said != recorded).nonzero().flatten()
    gap = logits[other].amax(1) - logits[other].gather(1, recorded[other, None]).flatten()
    tied = gap <= TOLERANCE * logits[other].abs().amax(1)
    return Agreement(
        int((said == labels).sum()),
        int((recorded == labels).sum()),
        len(labels),
        tuple(other[~tied].tolist()),
        tuple(other[tied].tolist()),
    )


def predict(model: nn.Module | Runner, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Probabilities, float32 (N, classes), of a loaded artifact or an opened view, for raw uint8 (N, C, H, W)."""
    return torch.cat([logits.softmax(1) for logits in logits_in_batches(model, images, batch)])


def logits_in_batches(model: nn.Module | Runner, images: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """float32 (<= batch, classes) for one batch of raw images after another."""
    if isinstance(model, nn.Module):
        description = description_of(model)
        yield from (logits_of(model, description.input, some) for some in images.split(batch))
    else:
        yield from (model(some) for some in images.split(batch))
