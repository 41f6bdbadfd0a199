"""The test images that the page shows: some that the network gets wrong, and a few to try it on, as small PNGs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

WRONG = 60
TRIALS = 24
THUMBNAIL = 64
"""Longest side in pixels of what is only looked at."""
CHARACTERS = 350_000
"""For the PNGs of either kind; what exceeds it is left out."""


def wrong_samples(
    network: nn.Module | None, images: Tensor, form: tuple[Tensor, Tensor], predictions: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """Images that the network gets wrong, at most `WRONG`, evenly spread over all of them.

    Args:
        network: takes normalised float32 (B, C, H, W), gives logits; None leaves out the confidences.
        images: all test images, uint8 (N, C, H, W).
        form: shift and scale of the normalisation, each (C, 1, 1).
        predictions: `labels`, `student` and perhaps `teacher`, a class for each image.

    Returns:
        For each: index, label, student, teacher, png (base64, small) and, with a network, confidence and the
        probability it gives the label.
    """
    labels, student = predictions["labels"], predictions["student"]
    chosen = spread([i for i, (a, b) in enumerate(zip(labels, student)) if a != b], WRONG)
    return described(network, images, form, predictions, chosen, THUMBNAIL)


def trial_samples(
    network: nn.Module, images: Tensor, form: tuple[Tensor, Tensor], predictions: dict[str, list[int]]
) -> list[dict[str, Any]]:
    """A few test images evenly spread, of full size and with the network's logits, to run the page's copy on."""
    return described(network, images, form, predictions, spread(range(len(images)), TRIALS), None)


def described(
    network: nn.Module | None,
    images: Tensor,
    form: tuple[Tensor, Tensor],
    predictions: dict[str, list[int]],
    chosen: list[int],
    longest: int | None,
) -> list[dict[str, Any]]:
    """What the page tells of each chosen image."""
    logits = logits_of(network, images[chosen], form) if network is not None and chosen else None
    found: list[dict[str, Any]] = []
    characters = 0
    for row, i in enumerate(chosen):
        png = base64.b64encode(to_png(smaller(images[i], longest))).decode()
        characters += len(png)
        if characters > CHARACTERS and found:
            break
        sample: dict[str, Any] = {"index": i, "png": png}
        sample |= {name if name != "labels" else "label": values[i] for name, values in predictions.items()}
        if logits is not None:
            chances = logits[row].double().softmax(0)
            sample["confidence"] = chances.max().item()
            sample["of_label"] = chances[sample["label"]].item()
            if longest is None:
                sample["logits"] = [round(value, 6) for value in logits[row].tolist()]
        found.append(sample)
    return found


def logits_of(network: nn.Module, images: Tensor, form: tuple[Tensor, Tensor]) -> Tensor:
    """float32 (B, classes) on the CPU for uint8 images."""
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    shift, scale = form
    with torch.inference_mode():
        batches = [
            network(((some.float() - shift) * scale).to(weight.device, weight.dtype)) for some in images.split(16)
        ]
    return torch.cat(batches).float().cpu()


def spread(candidates: Sequence[int], count: int) -> list[int]:
    """At most `count` of the candidates, evenly spaced: the same ones each time, and no preference among them."""
    if len(candidates) <= count:
        return list(candidates)
    return [candidates[i * len(candidates) // count] for i in range(count)]


def smaller(image: Tensor, longest: int | None) -> Tensor:
    """uint8 (C, H, W) with its longest side at most `longest`, averaged down."""
    height, width = image.shape[1:]
    side = max(height, width)
    if longest is None or side <= longest:
        return image
    size = (max(1, height * longest // side), max(1, width * longest // side))
    return adaptive_avg_pool2d(image.float(), size).round().to(torch.uint8)


def to_png(image: Tensor) -> bytes:
    """uint8 (C, H, W) as PNG: RGB for three channels, otherwise the first one as grey."""
    pixels = image.permute(1, 2, 0) if image.shape[0] == 3 else image[0, :, :, None]
    height, width, channels = pixels.shape
    before = torch.zeros_like(pixels)
    before[:, 1:] = pixels[:, :-1]
    filtered = (pixels.int() - before.int()).remainder(256).to(torch.uint8)  # PNG's filter 1: against the left
    packed = min((pack(rows, number) for number, rows in enumerate((pixels, filtered))), key=len)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def pack(rows: Tensor, number: int) -> bytes:
    """Rows of pixels, each after the number of its filter, compressed."""
    return zlib.compress(b"".join(bytes([number]) + row.contiguous().numpy().tobytes() for row in rows), 9)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
