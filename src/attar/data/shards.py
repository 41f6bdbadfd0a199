"""Images that do not fit into memory: a store on disk, read by shards, a window of which is in memory at a time."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from attar.data.convert import Array

SHARD_BYTES = 8 << 20
"""What is read from disk at once: long enough to be a sequential read on any disk."""


class Shards:
    """The images of a store, uint8 (N, C, H, W), with what `Views` asks of a tensor.

    An epoch's order takes shards at random, a window of them at a time, and shuffles the images of a window (`order`).
    While one window is in use, a thread reads the next: at most `memory` bytes are held, half for each.
    """

    dtype = torch.uint8

    def __init__(self, path: Path, shape: Sequence[int], memory: int, device: torch.device | str) -> None:
        """
        Args:
            path: a file whose first bytes are the images, one after another.
            shape: (N, C, H, W).
            memory: bytes of images that may be held.
            device: where batches are wanted.
        """
        self.path, self.shape, self.device = path, torch.Size(shape), torch.device(device)
        self.row = self.shape[1:].numel()
        self.rows = max(1, min(SHARD_BYTES, memory // 8) // self.row)
        self.window = max(1, memory // 2 // (self.rows * self.row))
        self._file = os.open(path, os.O_RDONLY)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="attar-shards")
        self._plan: list[list[int]] = []
        self._window_of: dict[int, int] = {}
        self._held: dict[int, Future[Array]] = {}
        self._at = -1

    def __len__(self) -> int:
        return self.shape[0]

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self._reader.shutdown(wait=False)  # what it has to read holds this object: nothing is left
            os.close(self._file)

    def order(self, shuffled: Tensor, shards: Tensor) -> Tensor:
        """Brings samples into the order in which shards are read, and has `gather` read them that way.

        Args:
            shuffled: int64 (n,): samples at random.
            shards: int64: the shards that have them, at random.

        Returns:
            The samples window by window; in each as they were.
        """
        plan = [part.tolist() for part in shards.split(self.window)]
        if plan != self._plan:
            self._plan, self._at = plan, -1
            self._window_of = {shard: number for number, part in enumerate(plan) for shard in part}
        rank = torch.zeros(int(shards.max()) + 1, dtype=torch.int64)
        rank[shards] = torch.arange(len(shards)) // self.window
        return shuffled[torch.argsort(rank[shuffled // self.rows], stable=True)]

    def shards_of(self, samples: Tensor) -> Tensor:
        """int64: the shards that have these samples, ascending."""
        return torch.unique(samples // self.rows)

    def index_select(self, dimension: int, samples: Tensor) -> Tensor:
        """These samples' images, uint8 (B, C, H, W), on the device; through the windows where they come as planned."""
        ids = samples.tolist()
        windows = {self._window_of.get(sample // self.rows, -1) for sample in ids}
        images = torch.empty(len(ids), self.row, dtype=torch.uint8)
        if -1 in windows or max(windows) - min(windows) > 1:
            for image, sample in zip(images, ids):
                self._read(image, sample * self.row)
        else:
            self._move(min(windows))
            pixels = images.numpy()
            for place, sample in enumerate(ids):
                shard, row = divmod(sample, self.rows)
                pixels[place] = self._held[shard].result()[row]
        return images.view(-1, *self.shape[1:]).to(self.device)

    def _move(self, window: int) -> None:
        """Hold this window and have the next one read; what belongs to neither is let go."""
        if window == self._at:
            return
        self._at = window
        wanted = [shard for part in self._plan[window : window + 2] for shard in part]
        for shard in self._held.keys() - set(wanted):
            self._held.pop(shard).cancel()
        self._ask(shard for shard in wanted if shard not in self._held)

    def _ask(self, shards: Iterable[int]) -> None:
        for shard in shards:
            self._held[shard] = self._reader.submit(self._load, shard)

    def _load(self, shard: int) -> Array:
        start = shard * self.rows
        images = torch.empty(min(self.rows, len(self) - start), self.row, dtype=torch.uint8)
        self._read(images, start * self.row)
        return images.numpy()

    def _read(self, into: Tensor, start: int) -> None:
        """Fill a tensor with the file's bytes from `start` on."""
        view = into.numpy().data.cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(self._file, [view[done:]], start + done)
            if got == 0:
                raise OSError(5, "the store was cut short; remove its folder, and it is made again", str(self.path))
            done += got
