"""How long the network and its views take, measured on this machine, all in the same way."""

import statistics
import time
from pathlib import Path

import torch
from torch import nn

from attar.artifact.description import description_of
from attar.artifact.folder import GOLDEN
from attar.artifact.manifest import read_file, read_manifest
from attar.artifact.replay import logits_of
from attar.artifact.views import Runner
from attar.artifact.weights import read_golden

LEAST_REPEATS, MOST_REPEATS = 5, 200


def runner_of(model: nn.Module) -> Runner:
    """A loaded artifact as what a view is: raw pixels uint8 (B, C, H, W) -> logits float32 (B, classes)."""
    form = description_of(model).input
    return lambda images: logits_of(model, form, images)


def golden_images(path: str | Path) -> torch.Tensor:
    """The images of the golden batch, uint8 (B, C, H, W)."""
    folder = Path(path)
    return read_golden(read_file(folder, read_manifest(folder), GOLDEN), GOLDEN)[0]


def seconds_per_batch(run: Runner, images: torch.Tensor, threads: int = 1, seconds: float = 0.5) -> float:
    """Median seconds for a batch, after two untimed ones.

    Args:
        run: the network or a view.
        images: uint8 (B, C, H, W), the batch.
        threads: of torch; a view in ONNX has those that it was opened with.
        seconds: about how long to measure; never less than five times.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        run(images)
        run(images)
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < LEAST_REPEATS or (time.perf_counter() - start < seconds and len(times) < MOST_REPEATS):
            begin = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(before)
    return statistics.median(times)
