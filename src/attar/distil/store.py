"""Rows of bytes on disk, one file a view epoch, that survive kill -9, damage and several writers.

A file is: a header line, a table with one checksum for each block of rows, the rows. A block's checksum is written
after its rows, and a block is believed only where the checksum is there and true: it is checked when the file is opened
and again when another process is seen to have written the block. So a row half written is never believed, whatever
moment a process was killed at or in whatever order the system wrote pages to the disk; what is missing or damaged is
computed again. Files appear whole (all space reserved, then renamed), so a full disk is noticed before a row is written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.data.cache import under_way

BLOCK = 256
"""Rows in a block: what the teacher sees at once."""
HEADER = 128
"""Bytes before the table."""
RESERVE = 1 << 30
"""Bytes of disk that are left free for checkpoints and others."""

Bytes = npt.NDArray[np.uint8]


class NoRoom(OSError):
    """The cache may not or cannot grow; the message says why and what to do."""


class Rows:
    """uint8 (n, row_bytes), block by block; this one lives in memory, for as long as the process does."""

    def __init__(self, n: int, row_bytes: int) -> None:
        self.n = n
        self.data: Bytes = np.zeros((n, row_bytes), np.uint8)
        self.have = np.zeros(blocks(n), bool)

    def missing(self, wanted: npt.NDArray[np.int64]) -> list[int]:
        """Those of the wanted blocks that must be computed."""
        return [int(block) for block in wanted if not self.have[block]]

    def write(self, block: int, rows: Bytes) -> None:
        """Keep a block's rows, uint8 (rows of the block, row_bytes)."""
        self.data[self._span(block)] = rows
        self.have[block] = True

    @property
    def complete(self) -> bool:
        return bool(self.have.all())

    def _span(self, block: int) -> slice:
        return slice(block * BLOCK, min(self.n, (block + 1) * BLOCK))


class StoredRows(Rows):
    """The same, memory-mapped from a file that other processes may read and fill meanwhile."""

    def __init__(self, path: Path, n: int, row_bytes: int, writable: bool = True) -> None:
        """Open the file, or make it if `writable`.

        Raises:
            NoRoom: there is not the space for a new file.
            OSError: the file cannot be made, opened or mapped.
        """
        self.path, self.n = path, n
        self.damaged = 0
        """Blocks that were there and whose checksum was wrong."""
        self._header = f"attar views 1: {n} rows of {row_bytes} bytes, blocks of {BLOCK}\n".encode().ljust(HEADER)
        size = file_bytes(n, row_bytes)
        file = self._opened(size, writable)
        if file is None:
            self.damaged = blocks(n) if path.exists() else 0
            if not writable:
                raise FileNotFoundError(f"{path} is not there or not whole")
            self._make(size)
            file = self._opened(size, writable)
        if file is None:
            raise OSError(f"{path} was replaced as soon as it was made")
        self._file = file
        try:
            mapped = np.frombuffer(mmap.mmap(file, size, access=mmap.ACCESS_READ), np.uint8)
        except ValueError as error:  # it has become shorter
            raise OSError(f"{path}: {error}") from None
        table_end = HEADER + 4 * blocks(n)
        self._table: npt.NDArray[np.uint32] = mapped[HEADER:table_end].view("<u4")
        self.data = mapped[table_end:].reshape(n, row_bytes)
        self.have = np.array([self._holds(block) for block in range(blocks(n))])
        self.damaged += int(((self._table != 0) & ~self.have).sum())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def missing(self, wanted: npt.NDArray[np.int64]) -> list[int]:
        for block in super().missing(wanted):
            self.have[block] = self._holds(block)  # another process may have written it meanwhile
        return super().missing(wanted)

    def write(self, block: int, rows: Bytes) -> None:
        with self._alone():
            if not self._holds(block):  # another process may have been faster: the first to write is right
                span, table_end = self._span(block), HEADER + 4 * blocks(self.n)
                os.pwrite(self._file, bytes(4), HEADER + 4 * block)
                os.pwrite(self._file, rows.tobytes(), table_end + span.start * self.data.shape[1])
                os.pwrite(self._file, _checksum(block, rows).to_bytes(4, "little"), HEADER + 4 * block)
        self.have[block] = True

    def _holds(self, block: int) -> bool:
        return bool(self._table[block]) and int(self._table[block]) == _checksum(block, self.data[self._span(block)])

    def _opened(self, size: int, writable: bool) -> int | None:
        """A descriptor of the file if it is whole. All is done through it: another file may take the path's place."""
        try:
            file = os.open(self.path, os.O_RDWR if writable else os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(file).st_size == size and os.pread(file, HEADER, 0) == self._header:
            return file
        os.close(file)
        return None

    def _make(self, size: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = under_way(self.path)
        try:
            with temporary.open("wb") as file:
                file.write(self._header)
                file.flush()
                _reserve(file.fileno(), size)
            if self.path.exists():
                temporary.replace(self.path)  # what is there is not whole
                return
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                pass  # another process made it in this moment
            except OSError:
                temporary.replace(self.path)  # no hard links here
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time; where the file system has no locks, the checksums must do."""
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            yield
            return
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def blocks(n: int) -> int:
    """Blocks of n rows, the last perhaps shorter."""
    return -(-n // BLOCK)


def file_bytes(n: int, row_bytes: int) -> int:
    """Size of an epoch's file."""
    return HEADER + 4 * blocks(n) + n * row_bytes


def check_room(folder: Path, needed: int, limit: int) -> None:
    """See that the cache may grow by `needed` bytes.

    Raises:
        NoRoom: the folder would pass the limit, or the disk would be all but full.
    """
    used = folder_bytes(folder)
    if used + needed > limit:
        raise NoRoom(
            f"the view cache holds {megabytes(used)} of {megabytes(limit)} that it may "
            "(`attar cache clear` makes room, ATTAR_VIEW_CACHE_LIMIT sets the limit)"
        )
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed + RESERVE:
        raise NoRoom(f"only {megabytes(free)} are free in {there} (ATTAR_CACHE names another place)")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # cleared in this moment
            total += file.stat().st_size if file.is_file() else 0
    return total


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _checksum(block: int, rows: Bytes) -> int:
    """crc32 over the block's number and rows, never 0, which stands for a block that is not there."""
    return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(block.to_bytes(8, "little"))) or 1


def _reserve(file: int, size: int) -> None:
    """Give the file its size, on the disk and not only in name."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    os.lseek(file, HEADER, os.SEEK_SET)
    for start in range(HEADER, size, 1 << 20):
        os.write(file, bytes(min(1 << 20, size - start)))
