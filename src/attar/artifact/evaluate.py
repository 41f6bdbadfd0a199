"""Run an artifact on raw images: accuracy where classes are known, probabilities for any batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from attar.artifact.description import description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.replay import logits_of
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
