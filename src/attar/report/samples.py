"""The test images that the page shows: some that the network gets wrong, and a few to try it on, as small PNGs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from attar.report.mistakes import spread

TRIALS = 24
THUMBNAIL = 64
"""Longest side in pixels of what is only looked at."""
CHARACTERS = 350_000
"""For the PNGs of either kind; what exceeds it is left out."""


def pictures(shown: list[dict[str, Any]], images: Tensor) -> list[dict[str, Any]]:
    """What `mistake_facts` shows, each with a small picture as `png` (base64), as far as they fit.

    Args:
        shown: with the `index` of each.
        images: all test images, uint8 (N, C, H, W).
    """
    return within_size({**row, "png": encoded(images[row["index"]], THUMBNAIL)} for row in shown)


def trial_samples(
    network: nn.Module,
    images: Tensor,
    form: tuple[Tensor, Tensor],
    predictions: Mapping[str, Sequence[int]],
    confidence: Mapping[str, Sequence[float]],
) -> list[dict[str, Any]]:
    """A few test images evenly spread, of full size and with the network's logits, to run the page's copy on.

    Args:
        network: takes normalised float32 (B, C, H, W), gives logits.
        images: all test images, uint8 (N, C, H, W).
        form: shift and scale of the normalisation, each (C, 1, 1).
        predictions, confidence: as for `mistake_facts`.

    Returns:
        For each: index, label, png (base64), logits, and the teacher's class and confidence where they are known.
    """
    chosen = spread(range(len(images)), TRIALS)  # there is at least one test image
    samples = within_size({"index": i, "png": encoded(images[i], None)} for i in chosen)
    logits = logits_of(network, images[[sample["index"] for sample in samples]], form)
    for sample, row in zip(samples, logits):
        i = sample["index"]
        sample |= {"label": predictions["labels"][i], "logits": [round(value, 6) for value in row.tolist()]}
        if "teacher" in predictions:
            sample["teacher"] = predictions["teacher"][i]
        if "teacher" in confidence:
            sample["teacher_confidence"] = confidence["teacher"][i]
    return samples


def within_size(samples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first samples whose pictures fit, at least one of them."""
    found: list[dict[str, Any]] = []
    characters = 0
    for sample in samples:
        characters += len(sample["png"])
        if characters > CHARACTERS and found:
            break
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


def smaller(image: Tensor, longest: int | None) -> Tensor:
    """uint8 (C, H, W) with its longest side at most `longest`, averaged down."""
    height, width = image.shape[1:]
    side = max(height, width)
    if longest is None or side <= longest:
        return image
    size = (max(1, height * longest // side), max(1, width * longest // side))
    return adaptive_avg_pool2d(image.float(), size).round().to(torch.uint8)


def encoded(image: Tensor, longest: int | None) -> str:
    """A picture as base64 of a PNG."""
    return base64.b64encode(to_png(smaller(image, longest))).decode()


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
