"""Tensors between ranks of one machine through shared memory: some microseconds where gloo's sockets take a millisecond.

A step of several ranks sends two messages of a few hundred numbers for every batch norm, each of which all have to wait for,
and the gradients, which gloo's threads would sum on the cores that the ranks compute on.
A file in shared memory has a place for every rank: a counter of its messages, and two slots that it fills in turn. A rank
writes message n into its slot, then sets its counter to n, and reads the others' slots once their counters have reached n. It
cannot overtake: message n + 2 goes where n stood, and is written only after n + 1 came from everyone, who by then had read n.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

MEMORY = Path("/dev/shm")
SLOT = 65536
"""Bytes of the largest message, where nothing else is said."""
_LINE = 64  # bytes of a cache line; every rank has one of its own: its counter, whether it has left (int64), a token
_TOKEN = 16  # where the token stands in the first rank's line
_SPINS = 100  # looks at a counter before the core is offered to others
_PATIENCE = 3e-4  # seconds of looking before sleeping between looks; longer takes the core from others
_NAP = 1e-4
_CHECK = 0.01  # seconds between questions whether the others live: sooner than torchrun ends this rank too
TIMEOUT = 1800.0
"""Seconds to wait for a message, as gloo does."""
Tell = Callable[[str], str]
"""What the first rank said, on every rank."""


class Mail:
    """The slots of all ranks; nothing fits until they are opened, or where the ranks share no memory."""

    def __init__(self, slot: int = SLOT) -> None:
        """
        Args:
            slot: bytes of the largest message.
        """
        self.slot = math.ceil(slot / _LINE) * _LINE
        self._stride = _LINE + 2 * self.slot
        self.asked = False
        """Whether `open` was called."""
        self._rank = self._count = self._sent = 0
        self._file = -1
        self._typed: dict[torch.dtype, list[Tensor]] = {}

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor goes this way; the same answer on all ranks for tensors of one shape and type."""
        return self._file >= 0 and self.could(tensor)

    def could(self, tensor: Tensor) -> bool:
        """Whether it would fit open slots: it is on the CPU and short enough."""
        return tensor.device.type == "cpu" and tensor.nbytes <= self.slot

    def open(self, rank: int, count: int, tell: Tell, all_can: Callable[[bool], bool]) -> None:
        """Open the slots if all ranks reach one shared memory; all ranks call this together.

        Args:
            rank, count: this rank and how many there are.
            tell: gives every rank what the first one says.
            all_can: whether all ranks say yes.
        """
        self.asked = True
        file, said = _made(count * self._stride) if rank == 0 else (-1, "")
        name, _, token = tell(said).partition(" ")
        if name and rank:
            file = _found(name, token)
        try:
            if all_can(file >= 0):
                self._map(file, rank, count)
                all_can(True)  # every rank has its lock and its map before any message, and before the name goes
        finally:
            if name and rank == 0:  # so that nothing is left behind, even by a job that is killed
                Path(name).unlink()
            if file >= 0 and self._file < 0:
                os.close(file)

    def close(self) -> None:
        """Leave; whoever still waits for this rank is told that it has gone."""
        if self._file >= 0:
            self._counters[self._rank * self._stride // 8 + 1] = 1
            os.close(self._file)
            del self._slots, self._counters
            self._typed = {}
        self._file, self.asked = -1, False

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, of the shape and type of this one: (...) -> (ranks, ...), in the order of the ranks.

        Raises:
            RuntimeError: the connection broke: a rank ended, or was silent for `TIMEOUT`.
        """
        return self._exchanged(tensor).clone().view(self._count, *tensor.shape)

    def total_(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor becomes the sum of all, the same to the last bit: they add in the order of the ranks.

        Raises:
            RuntimeError: as `gather`.
        """
        return tensor.copy_(self._exchanged(tensor).sum(0, dtype=tensor.dtype).view(tensor.shape))

    def _exchanged(self, tensor: Tensor) -> Tensor:
        """All ranks' numbers, (ranks, n), where they lie: to be read before the next message."""
        self._sent += 1
        numbers, slots = tensor.numel(), self._slots_of(tensor.dtype)[self._sent % 2]
        slots[self._rank, :numbers] = tensor.detach().reshape(-1)
        self._counters[self._rank * self._stride // 8] = self._sent
        for other in range(self._count):
            if other != self._rank:
                self._wait(other)
        return slots[:, :numbers]

    def _slots_of(self, kind: torch.dtype) -> list[Tensor]:
        """The even and the odd messages' slots, each (ranks, numbers of this type)."""
        if kind not in self._typed:
            self._typed[kind] = [self._slots[:, parity].view(kind) for parity in range(2)]
        return self._typed[kind]

    def _map(self, file: int, rank: int, count: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, rank)  # the system takes it back when this process ends, however it does
        memory = mmap.mmap(file, count * self._stride)
        self._counters = memoryview(memory).cast("q")
        self._slots = (
            torch.frombuffer(memory, dtype=torch.uint8)
            .view(count, self._stride)[:, _LINE:]
            .unflatten(1, (2, self.slot))
        )
        self._file, self._rank, self._count, self._sent = file, rank, count, 0

    def _wait(self, other: int) -> None:
        place, counters, wanted = other * self._stride // 8, self._counters, self._sent
        for _ in range(_SPINS):
            if counters[place] >= wanted:
                return
        start = time.monotonic()
        check = start + _CHECK
        while counters[place] < wanted:
            now = time.monotonic()
            gone = counters[place + 1] or (now > check and not self._lives(other))
            if gone and counters[place] < wanted:  # not what it said before it left
                raise RuntimeError(f"the connection to rank {other} broke: its process has ended or given up")
            if now - start > TIMEOUT:
                raise RuntimeError(f"timed out: nothing came from rank {other} for {TIMEOUT:.0f} seconds")
            if now > check:
                check = now + _CHECK
            if now - start < _PATIENCE:
                os.sched_yield()
            else:
                time.sleep(_NAP)

    def _lives(self, other: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, other)
        except OSError:
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, other)
        return False


def _made(size: int) -> tuple[int, str]:
    """A new file in shared memory, and 'path token'; (-1, "") where it cannot be had or processors reorder writes."""
    # Slot and counter are written one after the other without a fence, which only x86 promises others to see in this order.
    if platform.machine().lower() not in ("x86_64", "amd64") or not MEMORY.is_dir():
        return -1, ""
    try:
        file, path = tempfile.mkstemp(prefix="attar-", dir=MEMORY)
    except OSError:
        return -1, ""
    token = secrets.token_hex(8)
    try:
        os.posix_fallocate(file, 0, size)  # a full memory says so here, not by a signal later
        os.pwrite(file, token.encode(), _TOKEN)
    except OSError:
        os.close(file)
        Path(path).unlink()
        return -1, ""
    return file, f"{path} {token}"


def _found(path: str, token: str) -> int:
    """The first rank's file; -1 where this is another machine's memory."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return -1
    if os.pread(file, len(token), _TOKEN) == token.encode():
        return file
    os.close(file)
    return -1
