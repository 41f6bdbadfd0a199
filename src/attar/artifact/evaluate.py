"""Run an artifact on raw images: accuracy on a data set, probabilities for any batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from attar.artifact.errors import ArtifactError
from attar.artifact.folder import load
from attar.artifact.metadata import Metadata
from attar.artifact.replay import logits_of
from attar.data import load_data


@dataclass(frozen=True)
class Evaluation:
    """How a network does on labelled images."""

    hits: int
    n: int
    data: str
    """Name of the data set."""
    predictions: torch.Tensor
    """int64 (n,): the class of the largest logit."""

    @property
    def accuracy(self) -> float:
        """Share of images that are right, 0..1."""
        return self.hits / self.n


def evaluate(
    artifact: str | Path | nn.Module,
    data: str | None = None,
    folder: str | Path | None = None,
    batch: int = 256,
) -> Evaluation:
    """Accuracy of an artifact on the test images of a data set.

    Args:
        artifact: a folder that needs no code but attar's, timm's or torchvision's, or a network from `load`.
        data: name of the data set; the one that the artifact was made for, unless given.
        folder: where the data's files are; see `attar.data.load_data`.
        batch: images at a time.

    Raises:
        ArtifactError: it cannot be loaded, or the data set does not fit it.
    """
    model = artifact if isinstance(artifact, nn.Module) else load(artifact)
    metadata = metadata_of(model)
    name = data or metadata.data
    if not name:
        raise ArtifactError("the artifact does not say what data it was made for: name a data set")
    found = load_data(name, folder)
    if metadata.class_names and metadata.class_names != found.class_names:
        raise ArtifactError(f"the artifact's classes are {metadata.class_names}, those of {name} {found.class_names}")
    return evaluate_images(model, found.test_images, found.test_labels, name, batch)


def evaluate_images(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, name: str = "", batch: int = 256
) -> Evaluation:
    """The same for images uint8 (N, C, H, W) with class numbers (N,); raises ArtifactError if they do not fit."""
    if len(images) != len(labels) or len(images) == 0:
        raise ArtifactError(f"{len(images)} images for {len(labels)} labels: there must be one label for each image")
    predictions = torch.cat([logits.argmax(1) for logits in logits_in_batches(model, images, batch)])
    return Evaluation(int((predictions == labels.cpu()).sum()), len(images), name, predictions)


def predict(model: nn.Module, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Probabilities, float32 (N, classes), of a loaded artifact for raw images uint8 (N, C, H, W)."""
    return torch.cat([logits.softmax(1) for logits in logits_in_batches(model, images, batch)])


def logits_in_batches(model: nn.Module, images: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """float32 (<= batch, classes) for one batch of raw images after another."""
    metadata = metadata_of(model)
    for some in images.split(batch):
        yield logits_of(model, metadata, some)


def metadata_of(model: nn.Module) -> Metadata:
    """What `load` attached; raises ArtifactError where it did not."""
    metadata = getattr(model, "metadata", None)
    if not isinstance(metadata, Metadata):
        raise ArtifactError("the network carries no metadata of an artifact: load it with attar.load")
    return metadata
