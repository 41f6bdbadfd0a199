"""Small messages through shared memory: nothing is lost or mixed up, and whoever waits for a rank that ended is told."""

import multiprocessing
import os
import platform
import signal
import sys
import time
from multiprocessing.connection import Connection

import pytest
import torch

from attar.train import mail as module
from attar.train.mail import Mail

MESSAGES = 3000
LARGEST = 1000
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere all messages go through gloo"
)


def opened(rank: int, other: Connection) -> Mail:
    """Of two ranks, which agree over a pipe."""

    def tell(said: str) -> str:
        if rank == 0:
            other.send(said)
            return said
        return str(other.recv())

    def all_can(can: bool) -> bool:
        other.send(can)
        return bool(other.recv()) and can

    mail = Mail(LARGEST)
    mail.open(rank, 2, tell, all_can)
    return mail


def message(rank: int, number: int) -> torch.Tensor:
    """Another length, type and content for every number; the longest (2 x 97 x 4 bytes) all but fill a slot."""
    generator = torch.Generator().manual_seed(2 * number + rank)
    kind = (torch.float32, torch.int32, torch.bfloat16, torch.uint8)[number % 4]
    return torch.rand(2, 1 + number % 97, generator=generator).mul(200).to(kind)


def work(rank: int, other: Connection, parent: Connection) -> None:
    torch.set_num_threads(1)
    mail = opened(rank, other)
    parent.send([exchange(rank, mail), exchange(rank, mail)])
    mail.close()


def exchange(rank: int, mail: Mail) -> int:
    """How many messages arrived whole."""
    whole = 0
    for number in range(MESSAGES):
        found = mail.gather(message(rank, number))
        same = all(found[n].equal(message(n, number)) for n in range(2))
        whole += same and mail.total_(message(rank, number)).equal(found.sum(0, dtype=found.dtype))
    return whole


def killed(rank: int, other: Connection, parent: Connection) -> None:
    opened(rank, other).gather(torch.zeros(1))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def peer():
    """Starts rank 1 on a function of this file: its pipe to rank 0, its pipe to the test."""
    context = multiprocessing.get_context("spawn")
    started = []

    def start(target) -> tuple[Connection, Connection]:
        (here, there), (result, theirs) = context.Pipe(), context.Pipe()
        started.append(context.Process(target=target, args=(1, there, theirs)))
        started[-1].start()
        return here, result

    yield start
    for process in started:
        process.kill()
        process.join()


def test_every_message_arrives_whole_and_in_order(peer, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MEMORY", tmp_path)
    here, result = peer(work)
    mail = opened(0, here)
    assert not list(tmp_path.iterdir())  # not even its name is left
    assert mail.fits(torch.zeros(LARGEST, dtype=torch.uint8))
    assert not mail.fits(torch.zeros(LARGEST + 64, dtype=torch.uint8))
    assert [exchange(0, mail), exchange(0, mail)] == [MESSAGES] * 2 == result.recv()
    with pytest.raises(RuntimeError, match="connection to rank 1 broke"):  # it has closed
        mail.gather(torch.zeros(1))
    mail.close()
    assert not mail.fits(torch.zeros(1))


def test_a_killed_rank_is_noticed_even_before_its_parent_does(peer):
    here, _ = peer(killed)
    mail = opened(0, here)
    mail.gather(torch.zeros(1))
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="connection to rank 1 broke: its process has ended"):
        mail.gather(torch.zeros(1))
    assert time.monotonic() - start < 20
    mail.close()


def test_ranks_without_shared_memory_do_without_it():
    assert not Mail().fits(torch.zeros(1))
    mail = Mail()
    mail.open(0, 2, lambda said: said, lambda can: False)  # the other one is on another machine
    assert mail.asked
    assert not mail.fits(torch.zeros(1))
    mail.close()


def test_another_machines_memory_is_not_taken_for_this_one(tmp_path):
    strange = tmp_path / "same name"
    strange.write_bytes(bytes(4096))
    assert module._found(str(strange), "0123456789abcdef") == -1
    assert module._found(str(tmp_path / "missing"), "0123456789abcdef") == -1
