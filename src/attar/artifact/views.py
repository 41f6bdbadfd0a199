"""Views: further files of an artifact that hold the same network, ready to run without attar.

Every view takes raw pixels, uint8 (B, C, H, W), and gives logits, float32 (B, classes): the normalisation is inside.
Before it is added, a view replays the golden batch.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from attar.artifact.description import Input, description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.folder import GOLDEN, load
from attar.artifact.manifest import read_file, read_manifest, write_files
from attar.artifact.weights import read_golden

ONNX = "model.onnx"
INT8 = "model.int8.onnx"
PT2 = "model.pt2"
TOLERANCES = {ONNX: 1e-3, PT2: 1e-3, INT8: 0.25}
"""How far a view's logits may be from the golden ones, as a share of the largest of them. int8 is coarse by nature."""
LEAST_AGREEMENT = 0.98
"""Share of images on which a view must choose the same class, of those on which the network clearly chooses one."""
CLEAR = 0.05
"""By how much the network must prefer a class to the next, as a share of the largest logit, to be held to it."""

LIBRARIES = {ONNX: ("onnx", "onnxscript", "onnxruntime"), INT8: ("onnx", "onnxscript", "onnxruntime")}
"""What views need beside torch."""

Runner = Callable[[torch.Tensor], torch.Tensor]
"""An opened view: images uint8 (B, C, H, W) -> logits float32 (B, classes), on the CPU."""


@dataclass(frozen=True)
class View:
    """How a view did on the golden batch."""

    name: str
    bytes: int
    difference: float
    """The largest difference of a logit, as a share of the largest logit."""
    agreement: float
    """Share of images with the same class on top, of those on which the network clearly prefers one."""

    @property
    def agrees(self) -> bool:
        """Whether it is within what its kind may differ by."""
        return self.difference <= TOLERANCES[self.name] and self.agreement >= LEAST_AGREEMENT

    def __str__(self) -> str:
        return f"{self.bytes:,} bytes, logits within {self.difference:.1e}, {self.agreement:.1%} same class"


def load_float32(folder: Path, builder: Callable[..., nn.Module] | None, allow: Collection[str]) -> nn.Module:
    """Load an artifact to make views of; raises ArtifactError if it is of another precision than theirs."""
    model = load(folder, builder=builder, allow=allow)
    if (dtype := description_of(model).dtype) != "float32":
        raise ArtifactError(f"views are made of float32 networks, this one is {dtype}: load it, call .float(), save it")
    return model


class FromPixels(nn.Module):
    """The network with its normalisation before it: raw pixels uint8 (B, C, H, W) -> logits float32."""

    def __init__(self, network: nn.Module, form: Input) -> None:
        super().__init__()
        self.network = network
        self.shift: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("shift", form.shift)
        self.register_buffer("scale", form.scale)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images.float() - self.shift) * self.scale)


def example(form: Input) -> torch.Tensor:
    """Two black images, uint8 (2, C, H, W): what networks are traced with, so that the batch stays free."""
    return torch.zeros(2, *form.size, dtype=torch.uint8)


def add_view(folder: Path, name: str, content: bytes, run: Runner) -> View:
    """Replay the golden batch with a view, then put it into the artifact.

    Raises ArtifactError if a view that ought to compute the same does not; int8 is kept and told.
    """
    view = replay_view(folder, name, len(content), run)
    if not view.agrees and name != INT8:
        raise ArtifactError(f"{name} computes something else than the network: {view}")
    write_files(folder, {name: content})
    return view


def replay_view(folder: Path, name: str, size: int, run: Runner) -> View:
    """Hold a view's logits for the golden images against the golden logits."""
    images, wanted = read_golden(read_file(folder, read_manifest(folder), GOLDEN), GOLDEN)
    found = run(images)
    if found.shape != wanted.shape:
        raise ArtifactError(f"{name} gives {tuple(found.shape)} for the golden batch, not {tuple(wanted.shape)}")
    largest = wanted.abs().max().clamp(min=1e-6)
    difference = (found - wanted).abs().max() / largest
    best = wanted.topk(min(2, wanted.shape[1])).values
    clear = best[:, 0] - best[:, -1] > CLEAR * largest
    same = (found.argmax(1) == wanted.argmax(1))[clear]
    agreement = same.double().mean().item() if len(same) else 1.0
    return View(name, size, difference.nan_to_num(nan=float("inf")).item(), agreement)


def missing_libraries(name: str) -> list[str]:
    """Libraries that making and running a view of this name would need and that are not installed."""
    return [library for library in LIBRARIES.get(name, ()) if find_spec(library) is None]


def import_extra(name: str, extra: str) -> ModuleType:
    """Import a library that only some need; raises ArtifactError that says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ArtifactError(f"{name} is needed for this: pip install 'attar[{extra}]' ({error})") from error
