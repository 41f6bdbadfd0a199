"""What a loaded network computes and costs, to hold against what is recorded."""

from collections.abc import Mapping

import torch
from torch import nn

from attar.artifact.description import Description, Input
from attar.artifact.errors import ArtifactError
from attar.artifact.weights import own_tensors
from attar.models import counting_macs

TOLERANCE = 1e-4
"""How far logits may be from those recorded, as a share of the largest: other machines round otherwise."""


def check_golden(form: Input, golden: torch.Tensor) -> None:
    """Raise ArtifactError unless there are images of the size that the network takes."""
    if tuple(golden.shape[1:]) != form.size or golden.dtype != torch.uint8 or len(golden) == 0:
        raise ArtifactError(f"golden images must be uint8 (B, {form.size}), not {golden.dtype} {tuple(golden.shape)}")


def golden_logits(model: nn.Module, form: Input, golden: torch.Tensor) -> torch.Tensor:
    """float32 (B, classes) for uint8 images, computed on the CPU."""
    check_golden(form, golden)
    return logits_of(model, form, golden.cpu())


def logits_of(model: nn.Module, form: Input, images: torch.Tensor) -> torch.Tensor:
    """float32 (B, classes) on the CPU, for uint8 images, with the network where and as it is."""
    tensor = next(iter(own_tensors(model).values()), torch.zeros(()))
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    normalised = form.normalise(images.to(tensor.device)).to(dtype)
    try:
        with torch.inference_mode():
            logits = model(normalised)
    except Exception as error:  # of a captured graph, which somebody else wrote, as much as of a network
        raise ArtifactError(f"the network cannot run: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise ArtifactError(f"the network's output is no logits (B, classes) but {type(logits).__name__}")
    return logits.float().cpu()


def difference(wanted: torch.Tensor, found: torch.Tensor) -> str:
    """What tells two batches of logits apart, beyond rounding; empty where nothing does."""
    if found.shape != wanted.shape:
        return f"logits {tuple(found.shape)} in place of {tuple(wanted.shape)}"
    gap = (found - wanted).abs().max().item()
    scale = max(wanted.abs().max().item(), 1.0)
    if not gap <= TOLERANCE * scale:
        return f"logits differ by up to {gap:.2g}, more than {TOLERANCE:g} of the largest ({scale:.3g})"
    return ""


def count_macs(model: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products, counted as the network runs the example."""
    with torch.no_grad(), counting_macs() as macs:
        model(example)
        return macs()


def count(model: nn.Module, description: Description, file_bytes: int) -> dict[str, int]:
    """What the network costs, counted on the network as loaded: parameters, MACs of one sample, bytes of the file."""
    tensors = own_tensors(model)
    weight = next((t for t in tensors.values() if t.is_floating_point()), torch.zeros(()))
    example = torch.zeros(1, *description.input.size, dtype=weight.dtype, device=weight.device)
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": count_macs(model, example),
        "bytes": file_bytes,
    }


def exceeded(counts: Mapping[str, float], budget: Mapping[str, float]) -> list[str]:
    """The limits that the counts break, in words. Latency is no count: it is measured where the network shall run."""
    return [f"{counts[kind]:,} {kind} of {limit:,}" for kind, limit in budget.items() if counts.get(kind, 0) > limit]
