"""arch.json: how the network is made, what goes in and what comes out. Everything but the numbers in the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

import torch
from torch import nn

from attar.artifact.errors import ArtifactError
from attar.artifact.manifest import VERSION, check_version
from attar.models import BuilderSpec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
COUNTS = ("params", "macs", "bytes", "file_bytes")
LARGEST_NUMBER = 1e18
LARGEST_IMAGE = 1 << 25
"""Numbers of one input: what runs a network must not be made to take memory without bounds."""
LIMITS = ("params", "macs", "bytes", "latency")


@dataclass(frozen=True)
class Input:
    """What the network takes: images of raw pixels 0..255, normalised as (pixel / 255 - mean) / std of each channel."""

    size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "float32"
    """Of the network that takes them; arch.json has it once, beside this."""

    def __post_init__(self) -> None:
        if len(self.size) != 3 or not all(type(n) is int and 0 < n <= 1 << 16 for n in self.size):
            raise ArtifactError(f"the input size must be (channels, height, width), not {self.size!r:.100}")
        if prod(self.size) > LARGEST_IMAGE:
            raise ArtifactError(
                f"the input size {self.size} is above {LARGEST_IMAGE:,} numbers; no image is that large"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.size[0] or not all(is_number(value) for value in values):
                raise ArtifactError(f"{name} must be a number for each of {self.size[0]} channels, not {values!r:.100}")
        if min(self.std) <= 0:
            raise ArtifactError(f"std must be above 0, not {self.std!r:.100}")

    @property
    def shift(self) -> torch.Tensor:
        """float32 (C, 1, 1): what is taken from pixels 0..255 before they are multiplied by `scale`."""
        return torch.tensor([255 * value for value in self.mean]).view(-1, 1, 1)

    @property
    def scale(self) -> torch.Tensor:
        """float32 (C, 1, 1)."""
        return torch.tensor([1 / (255 * value) for value in self.std]).view(-1, 1, 1)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, H, W) -> the network's dtype, same shape; in float32 until then, by the arithmetic that training used.

        Raises ArtifactError for images of another kind or another number of channels.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != self.size[0]:
            wanted = f"uint8 (B, {', '.join(map(str, self.size))})"
            raise ArtifactError(f"images must be {wanted}, not {images.dtype} {tuple(images.shape)}")
        normalised = (images.float() - self.shift.to(images.device)) * self.scale.to(images.device)
        return normalised.to(DTYPES[self.dtype])


@dataclass(frozen=True)
class Description:
    """The content of arch.json."""

    builder: BuilderSpec | None
    """How the uncut network is made; None where only its owner's code can."""
    surgery: dict[str, Any] | None
    """What `attar.prune.describe` says: final shapes and mended attributes; None for a network that was not cut."""
    input: Input
    dtype: str = "float32"
    class_names: tuple[str, ...] = ()
    """In the order of the logits."""
    budget: Mapping[str, float] = field(default_factory=dict)
    """Absolute limits that hold, of `params`, `macs`, `bytes`, `latency`."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted on the saved weights: `params`, `macs` of one sample, `bytes` of the file. (Before attar 0.2 `bytes`
    were those of the tensors alone, beside `file_bytes`.)"""
    versions: Mapping[str, str] = field(default_factory=dict)
    """What it was saved with: attar, torch."""

    def names(self, logits: int) -> tuple[str, ...]:
        """A name for each logit, its number where the classes have none; raises ArtifactError if names are missing or over."""
        if self.class_names and len(self.class_names) != logits:
            raise ArtifactError(f"{len(self.class_names)} class names for {logits} logits")
        return self.class_names or tuple(map(str, range(logits)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for arch.json."""
        return {
            "version": VERSION,
            "builder": None if self.builder is None else self.builder.to_dict(),
            "surgery": self.surgery,
            "input": {key: list(getattr(self.input, key)) for key in ("size", "mean", "std")},
            "dtype": self.dtype,
            "class_names": list(self.class_names),
            "budget": dict(self.budget),
            "counts": dict(self.counts),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_dict(cls, data: Any) -> "Description":
        """Read arch.json's data strictly; raises ArtifactError that names the key."""
        if not isinstance(data, dict):
            raise ArtifactError("arch.json must be a table")
        check_version(data, "arch.json")
        known = {"version", *(entry.name for entry in fields(cls))}
        if set(data) != known:
            raise ArtifactError(f"arch.json has keys {sorted(data)}, not {sorted(known)}"[:500])
        shape = data["input"]
        if not isinstance(shape, dict) or set(shape) != {"size", "mean", "std"}:
            raise ArtifactError("arch.json: input must give size, mean and std")
        if not all(isinstance(values, list) for values in shape.values()):
            raise ArtifactError("arch.json: size, mean and std of the input must be lists")
        surgery = data["surgery"]
        if surgery is not None and not isinstance(surgery, dict):
            raise ArtifactError("arch.json: surgery must be a table or null")
        if data["dtype"] not in list(DTYPES):
            raise ArtifactError(f"arch.json: dtype {data['dtype']!r:.50} is none of {', '.join(DTYPES)}")
        return cls(
            builder=None if data["builder"] is None else read_builder(data["builder"]),
            surgery=surgery,
            input=Input(tuple(shape["size"]), tuple(shape["mean"]), tuple(shape["std"]), data["dtype"]),
            dtype=data["dtype"],
            class_names=read_words(data["class_names"], "class_names"),
            budget=read_figures(data["budget"], "budget", LIMITS),
            counts=read_figures(data["counts"], "counts", COUNTS),
            versions=read_versions(data["versions"]),
        )


def description_of(model: nn.Module) -> Description:
    """What `load` attached; raises ArtifactError where it did not."""
    description = getattr(model, "artifact", None)
    if not isinstance(description, Description):
        raise ArtifactError("the network carries no description of an artifact: load it with attar.load")
    return description


def read_builder(data: Any) -> BuilderSpec:
    """The builder, as plain data; nothing is imported or called here."""
    try:
        return BuilderSpec.from_dict(data)
    except ValueError as error:
        raise ArtifactError(f"arch.json: {error}") from error


def read_words(data: Any, key: str) -> tuple[str, ...]:
    """A list of words."""
    if not isinstance(data, list) or not all(isinstance(word, str) for word in data):
        raise ArtifactError(f"arch.json: {key} must be a list of words")
    return tuple(data)


def read_figures(data: Any, key: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """A table of figures above zero under known names."""
    if not isinstance(data, dict) or not all(name in allowed and is_number(n) and n >= 0 for name, n in data.items()):
        raise ArtifactError(f"arch.json: {key} must give numbers for some of {', '.join(allowed)}, not {data!r:.200}")
    return data


def read_versions(data: Any) -> dict[str, str]:
    """A table of words."""
    if not isinstance(data, dict) or not all(isinstance(word, str) for word in data.values()):
        raise ArtifactError("arch.json: versions must be a table of words")
    return data


def is_number(value: Any) -> bool:
    """Whether the value is an int or float of a sane magnitude."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
