"""Checkpoints: one safetensors file of tensors and plain numbers, written so that a crash leaves the old or the new one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from attar.files import write_whole


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message names the file and the way out."""


class NotFinite(CheckpointError):
    """A checkpoint was not written, since it would be that of a run that broke down."""


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
    """Write atomically: a temporary file beside `path`, flushed to the disk, then renamed over it.

    Args:
        path: the file, `.safetensors`.
        tensors: name -> tensor, of any device.
        numbers: what JSON can hold.

    Raises:
        NotFinite: a tensor holds NaN.
    """
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.isnan().any()]
    if broken:
        raise NotFinite(f"not written to {path}: {len(broken)} tensors hold NaN, first {broken[0]}")
    plain = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_whole(path, save(plain, metadata={"attar": json.dumps(numbers)}))


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied tensors under each of their names: the network that reads them ties them again."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises:
        CheckpointError: the file is damaged or not a checkpoint of attar's.
    """
    with _opened(path) as (file, numbers):
        return {name: file.get_tensor(name) for name in file.keys()}, numbers  # noqa: SIM118


def read_numbers(path: Path) -> dict[str, Any]:
    """The numbers alone, without reading a tensor; raises as `read_checkpoint`."""
    with _opened(path) as (_, numbers):
        return numbers


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file, and its numbers."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads(file.metadata()["attar"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged or was not written by attar ({error}); delete it to start its stage again"
        ) from None
