"""The pools of teacher outputs on disk: where they are, what they are outputs of, how much they may take."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.data.cache import cache_folder, under_way
from attar.distil.coding import OutputsError
from attar.distil.store import StoredRows, check_room, file_bytes, folder_bytes
from attar.files import write_whole

LIMIT = "10G"
"""Bytes that all pools together may take, unless ATTAR_VIEW_CACHE_LIMIT says otherwise."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
MODES = ("auto", "all", "off")
_EPOCH = re.compile(r"epoch-(\d+)\.rows")


@dataclass(frozen=True)
class Pool:
    """The outputs of one teacher for one stream of views."""

    facts: Mapping[str, Any]
    """Everything that the outputs depend on, as plain data."""
    folder: Path
    """Of all pools; this one's is `folder / key`."""
    limit: int
    """Bytes that all pools together may take."""
    write: bool = True
    """Whether new files may be made; those that are there are read and completed in any case."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What is written beside the facts for those who read, and makes no difference to the key."""

    @property
    def key(self) -> str:
        """Digest of the facts, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        return self.folder / self.key

    @property
    def epochs(self) -> tuple[int, ...]:
        """View epochs of which there is a file."""
        return _epochs(self.path)

    def open(self, epoch: int, samples: Tensor, row_bytes: int) -> StoredRows | None:
        """The epoch's rows, made if they may be; None where there are none and none may be made.

        Raises:
            OSError: the folder cannot be used, or there is no room.
        """
        file = _file(self.path, epoch)
        if not file.exists():
            if not self.write:
                return None
            check_room(self.folder, file_bytes(len(samples), row_bytes), self.limit)
            self.path.mkdir(parents=True, exist_ok=True)
            self._describe(samples)
        return StoredRows(file, len(samples), row_bytes)

    def _describe(self, samples: Tensor) -> None:
        about, ids = self.path / "about.json", self.path / "samples.npy"
        if about.exists():
            return
        held = io.BytesIO()
        np.save(held, samples.numpy().astype("<i8"), allow_pickle=False)
        write_whole(ids, held.getvalue(), under_way(ids))
        write_whole(about, json.dumps({"facts": self.facts, "notes": self.notes}, indent=1) + "\n", under_way(about))


@dataclass(frozen=True)
class Kept:
    """A pool as it is found on disk."""

    path: Path
    facts: dict[str, Any]
    notes: dict[str, Any]
    size: int
    """Bytes."""
    epochs: tuple[int, ...]
    """View epochs of which there is a file."""

    @property
    def key(self) -> str:
        return self.path.name

    def samples(self) -> Tensor:
        """int64 (n,), ascending.

        Raises:
            OutputsError: the file that has them is damaged.
        """
        try:
            samples = torch.from_numpy(np.load(self.path / "samples.npy", allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError):
            samples = torch.empty(0, dtype=torch.int64)
        if digest_of(samples) != self.facts["samples"]["digest"]:
            raise OutputsError(f"{self.path}/samples.npy is damaged; `attar cache clear {self.key}`, and fill it again")
        return samples

    def rows(self, epoch: int) -> StoredRows:
        """The rows of an epoch, checked, for reading."""
        n, row_bytes = self.facts["samples"]["count"], self.facts["row_bytes"]
        return StoredRows(_file(self.path, epoch), n, row_bytes, writable=False)


def digest_of(tensor: Tensor) -> str:
    """sha256 (hex) of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def digest_of_all(tensors: Mapping[str, Tensor]) -> str:
    """sha256 (hex) of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def pools_folder() -> Path:
    """Where pools are: `views` in attar's cache folder."""
    return cache_folder() / "views"


def cache_mode() -> str:
    """ATTAR_VIEW_CACHE: `auto` stores pools and leaves fresh views, `all` stores these too, `off` neither reads nor writes.

    Raises:
        ValueError: it is none of these.
    """
    mode = os.environ.get("ATTAR_VIEW_CACHE", "auto")
    if mode not in MODES:
        raise ValueError(f"ATTAR_VIEW_CACHE = {mode!r}; allowed: {', '.join(MODES)}")
    return mode


def cache_limit() -> int:
    """ATTAR_VIEW_CACHE_LIMIT in bytes: a number, or one with k, M, G or T.

    Raises:
        ValueError: it cannot be read.
    """
    text = os.environ.get("ATTAR_VIEW_CACHE_LIMIT", LIMIT)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"ATTAR_VIEW_CACHE_LIMIT = {text!r}: write a number of bytes, or one with k, M, G or T: 10G")
    return int(float(match[1]) * UNITS[match[2].lower()])


def kept_pools(folder: Path) -> list[Kept]:
    """All pools in the folder, by key."""
    return [_kept(about.parent) for about in sorted(folder.glob("*/about.json"))]


def find_pool(folder: Path, key: str) -> Kept:
    """The one pool whose key begins so.

    Raises:
        ValueError: there is none, or several; with those that are there.
    """
    pools = kept_pools(folder)
    found = [pool for pool in pools if pool.key.startswith(key)] if key else []
    if len(found) != 1:
        there = ", ".join(pool.key for pool in found or pools) or "none at all"
        raise ValueError(f"{'several pools begin' if found else 'no pool begins'} with {key!r} in {folder}: {there}")
    return found[0]


def remove_pool(pool: Kept) -> None:
    """Delete a pool. Runs that have it open keep what they see and compute the rest."""
    (pool.path / "about.json").unlink(missing_ok=True)
    shutil.rmtree(pool.path, ignore_errors=True)


def _kept(path: Path) -> Kept:
    try:
        about = json.loads((path / "about.json").read_text())
        facts, notes = about["facts"], about["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        facts, notes = {}, {}  # damaged: it can still be shown and cleared
    return Kept(path, facts, notes, folder_bytes(path), _epochs(path))


def _epochs(folder: Path) -> tuple[int, ...]:
    return tuple(sorted(int(match[1]) for file in folder.glob("*") if (match := _EPOCH.fullmatch(file.name))))


def _file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.rows"
