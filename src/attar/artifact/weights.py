"""The weights file: safetensors, one tensor for each name, tied parameters once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import nn

from attar.artifact.errors import ArtifactError

LARGEST_LISTED = 5


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name; of those that are tied, the first name only."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            raise ArtifactError(f"{name} is no tensor but {type(tensor).__name__}; such extra state cannot be saved")
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The tensors as a safetensors file; the same bytes for the same tensors, whatever device they are on."""
    return write_safetensors({name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())})


def from_bytes(content: bytes, name: str) -> dict[str, torch.Tensor]:
    """The inverse of `to_bytes`; raises ArtifactError if the file's header and content do not fit each other."""
    try:
        return parse_safetensors(content)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise ArtifactError(f"{name} cannot be read as safetensors: {error}") from error


def check_finite(tensors: Mapping[str, torch.Tensor], parameters: Collection[str]) -> None:
    """Raise ArtifactError that names a tensor with NaN, or a parameter with infinite values."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        if tensor.isnan().any() or (name in parameters and tensor.isinf().any()):
            raise ArtifactError(f"{name} holds NaN or infinite values")


@dataclass(frozen=True)
class Form:
    """What a tensor is before its numbers: dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Form":
        return cls(tensor.dtype, tuple(tensor.shape))

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


def check_forms(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise ArtifactError unless the file has exactly the tensors of the network, by name, dtype and shape."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing:
        raise ArtifactError(f"the weights file lacks {listed(missing)}, which the network has")
    if extra:
        raise ArtifactError(f"the weights file has {listed(extra)}, which the network has not")
    for name, tensor in found.items():
        has, needs = Form.of(tensor), Form.of(wanted[name])
        if has != needs:
            raise ArtifactError(f"{name} is {has} in the weights file, but {needs} in the network")


def fill(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put the numbers into the network, whose tensors are known to have the same forms."""
    with torch.no_grad():
        for name, tensor in own_tensors(model).items():
            tensor.copy_(tensors[name])


def read_golden(content: bytes, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (B, C, H, W) and logits float32 (B, classes) of a golden file; raises ArtifactError if it has others."""
    golden = from_bytes(content, name)
    if set(golden) != {"images", "logits"}:
        raise ArtifactError(f"{name} must hold images and logits, not {listed(sorted(golden)) or 'nothing'}")
    images, logits = golden["images"], golden["logits"]
    if images.dtype != torch.uint8 or images.dim() != 4 or logits.dtype != torch.float32 or logits.dim() != 2:
        raise ArtifactError(f"{name} must hold images uint8 (B, C, H, W) and logits float32 (B, classes)")
    if len(images) != len(logits) or len(images) == 0 or not logits.isfinite().all():
        raise ArtifactError(f"{name} must hold finite logits for each of its images")
    return images, logits


def listed(names: list[str]) -> str:
    """The first few names, and how many more."""
    more = f" and {len(names) - LARGEST_LISTED} more" if len(names) > LARGEST_LISTED else ""
    return ", ".join(names[:LARGEST_LISTED]) + more
