"""Rows on disk: what is half written, damaged or somebody else's is never taken for what was computed."""

import multiprocessing
import os
import random
import time

import numpy as np
import pytest

from attar.distil import store
from attar.distil.store import BLOCK, NoRoom, Rows, StoredRows, blocks, check_room, file_bytes

N, WIDTH = 10 * BLOCK + 37, 20


def expected(block: int, n: int = N, width: int = WIDTH) -> np.ndarray:
    rows = min(n, (block + 1) * BLOCK) - block * BLOCK
    return np.random.default_rng(block).integers(0, 256, (rows, width), dtype=np.uint8)


def check(rows: Rows, n: int = N, width: int = WIDTH) -> int:
    """Every block that is believed is right; returns how many there are."""
    for block in np.flatnonzero(rows.have):
        assert np.array_equal(rows.data[block * BLOCK : (block + 1) * BLOCK], expected(int(block), n, width))
    return int(rows.have.sum())


@pytest.mark.parametrize("make", [lambda path: Rows(N, WIDTH), lambda path: StoredRows(path, N, WIDTH)])
def test_what_is_written_is_there(tmp_path, make):
    rows = make(tmp_path / "pool" / "epoch.rows")
    assert rows.missing(np.arange(blocks(N))) == list(range(blocks(N)))
    for block in (3, blocks(N) - 1, 0):
        rows.write(block, expected(block))
    assert rows.missing(np.array([0, 1, 3])) == [1]
    assert not rows.complete
    for block in range(blocks(N)):
        rows.write(block, expected(block))
    assert rows.complete
    assert check(rows) == blocks(N)


def test_what_was_written_is_there_next_time(tmp_path):
    path = tmp_path / "epoch.rows"
    first = StoredRows(path, N, WIDTH)
    first.write(2, expected(2))
    again = StoredRows(path, N, WIDTH)
    assert again.have.nonzero()[0].tolist() == [2]
    assert check(again) == 1
    assert again.damaged == 0
    assert path.stat().st_size == file_bytes(N, WIDTH)


@pytest.mark.parametrize("where", ["rows", "table"])
def test_a_changed_bit_is_noticed(tmp_path, where):
    path = tmp_path / "epoch.rows"
    rows = StoredRows(path, N, WIDTH)
    for block in range(blocks(N)):
        rows.write(block, expected(block))
    table_end = store.HEADER + 4 * blocks(N)
    position = table_end + 5 * BLOCK * WIDTH + 77 if where == "rows" else store.HEADER + 4 * 5 + 1
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    damaged = StoredRows(path, N, WIDTH)
    assert damaged.damaged == 1
    assert damaged.missing(np.arange(blocks(N))) == [5]
    damaged.write(5, expected(5))
    assert check(StoredRows(path, N, WIDTH)) == blocks(N)


def test_rows_without_their_checksum_are_not_believed(tmp_path):
    """What a process leaves that is killed between the two writes."""
    path = tmp_path / "epoch.rows"
    StoredRows(path, N, WIDTH)
    with path.open("r+b") as file:
        file.seek(store.HEADER + 4 * blocks(N))
        file.write(expected(0).tobytes())
    rows = StoredRows(path, N, WIDTH)
    assert rows.missing(np.array([0])) == [0]
    assert rows.damaged == 0


@pytest.mark.parametrize("content", [b"", b"attar views 1", bytes(file_bytes(N, WIDTH))])
def test_a_file_that_is_not_whole_is_made_anew(tmp_path, content):
    path = tmp_path / "epoch.rows"
    path.write_bytes(content)
    with pytest.raises(FileNotFoundError):
        StoredRows(path, N, WIDTH, writable=False)
    rows = StoredRows(path, N, WIDTH)
    assert rows.damaged == blocks(N)
    rows.write(1, expected(1))
    assert check(StoredRows(path, N, WIDTH)) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["epoch.rows"]


def test_a_file_of_other_rows_is_not_mistaken(tmp_path):
    path = tmp_path / "epoch.rows"
    StoredRows(path, N, WIDTH).write(0, expected(0))
    assert not StoredRows(path, N, WIDTH + 1).have.any()


def test_a_reader_sees_what_another_writes_meanwhile(tmp_path):
    path = tmp_path / "epoch.rows"
    reader, writer = StoredRows(path, N, WIDTH), StoredRows(path, N, WIDTH)
    writer.write(4, expected(4))
    assert reader.missing(np.array([4, 5])) == [5]
    reader.write(4, expected(5))  # too late: what is there stays, whoever read it before
    assert check(writer) == 1


MANY, WIDE = 40 * BLOCK, 4000


def fill(path, seed: int, opened) -> None:
    rows = StoredRows(path, MANY, WIDE)
    opened.set()
    for block in np.random.default_rng(seed).permutation(blocks(MANY)):
        for missing in rows.missing(np.array([block])):
            rows.write(missing, expected(missing, MANY, WIDE))


def start(path, seed: int):
    context = multiprocessing.get_context("fork")  # no imports: the writers are at work at once
    opened = context.Event()
    writer = context.Process(target=fill, args=(path, seed, opened))
    writer.start()
    assert opened.wait(60)
    return writer


def test_two_writers_killed_at_any_moment_leave_only_whole_blocks(tmp_path):
    path = tmp_path / "epoch.rows"
    moments, found = random.Random(7), []
    for attempt in range(8):
        writers = [start(path, 2 * attempt + side) for side in range(2)]
        time.sleep(moments.uniform(0, 0.03))
        for writer in writers:
            writer.kill()
            writer.join()
        found.append(check(StoredRows(path, MANY, WIDE), MANY, WIDE))
    assert found == sorted(found)
    for writer in [start(path, 100), start(path, 101)]:
        writer.join()
        assert writer.exitcode == 0
    assert check(StoredRows(path, MANY, WIDE), MANY, WIDE) == blocks(MANY)


def test_a_file_that_is_replaced_while_it_is_opened_is_read_and_written_as_one(tmp_path, monkeypatch):
    path, other = tmp_path / "epoch.rows", tmp_path / "other.rows"
    for file in (path, other):
        StoredRows(file, N, WIDTH)
    real = os.open

    def replaced(name, *flags, **more):
        file = real(name, *flags, **more)
        if name == path and other.exists():
            other.replace(path)
        return file

    monkeypatch.setattr(os, "open", replaced)
    rows = StoredRows(path, N, WIDTH)
    rows.write(2, expected(2))
    assert not other.exists()
    assert check(rows) == 1


def test_the_cache_stays_within_its_limit(tmp_path):
    (tmp_path / "some").write_bytes(bytes(1000))
    check_room(tmp_path, 500, 1500)
    with pytest.raises(NoRoom, match=r"ATTAR_VIEW_CACHE_LIMIT"):
        check_room(tmp_path, 501, 1500)
    with pytest.raises(NoRoom, match=r"are free in .*ATTAR_CACHE"):
        check_room(tmp_path / "not" / "yet", 1 << 60, 1 << 61)
