"""Several processes train as one would: the same views, shared, and the same numbers up to the order of sums."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_worker import gradients, normed, outputs, plainly_normed, trained

from attar.distil import kept_pools
from attar.recipe import Compute
from attar.train import ALONE, Machine, RankError, Ranks

RANKS = 2
WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder):
    """What each of two processes found."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    job = subprocess.run(
        [*launcher, str(WORKER), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert job.returncode == 0, job.stdout
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(one_thread):
    return trained(ALONE)


def test_ranks_see_the_views_of_one_process(ranks, alone):
    steps = zip(alone["seen"], *(rank["trained"]["seen"] for rank in ranks), strict=True)
    for whole, *shares in steps:
        assert {share[0] for share in shares} == {whole[0]}
        assert torch.cat([share[1] for share in shares]).equal(whole[1])
        assert torch.cat([share[2] for share in shares]).equal(whole[2])
    assert len(alone["seen"][0][1]) == 63  # not the same number for both


@pytest.mark.parametrize("way", ["trained", "trained by gloo"])
def test_ranks_train_to_the_weights_of_one_process(ranks, alone, way):
    for rank in ranks:
        for kind in ("model", "ema"):
            for name, expected in alone[kind].items():
                torch.testing.assert_close(rank[way][kind][name], expected, rtol=1e-9, atol=1e-12)
        for told, expected in zip(rank[way]["said"], alone["said"], strict=True):
            assert told == pytest.approx(expected, rel=1e-9)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere all messages go through gloo"
)
def test_gradients_go_through_memory_where_they_can(ranks):
    assert [rank["gradients' ways"] for rank in ranks] == [[True]] * RANKS


def test_ranks_stay_the_same_bits(ranks):
    first, second = (rank["trained"] for rank in ranks)
    for kind in ("model", "ema"):
        assert all(first[kind][name].equal(second[kind][name]) for name in first[kind])
    assert first["said"] == second["said"]


@pytest.mark.parametrize(("how", "alone"), [("normed", normed), ("plainly normed", plainly_normed)])
def test_batch_norm_is_of_the_whole_batch(ranks, how, alone):
    """Outputs and gradients of x are shared out, gradients of the parameters summed, running statistics equal."""
    expected = alone(ALONE)
    for number, tensor in enumerate(expected):
        parts = [rank[how][number] for rank in ranks]
        found = torch.cat(parts) if tensor.dim() > 1 else parts[1]
        torch.testing.assert_close(found, tensor, rtol=1e-9, atol=1e-12)


def test_gradients_for_importance_are_of_the_whole_batch(ranks):
    for rank in ranks:
        for found, expected in zip(rank["gradients"], gradients(ALONE), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("where", ["in memory", "stored"])
def test_ranks_share_the_teachers_work(ranks, folder, one_thread, where):
    expected, blocks = outputs(ALONE, None)
    for number, tensor in enumerate(expected):
        assert torch.cat([rank[where][0][number] for rank in ranks]).equal(tensor)
    computed = [rank[where][1] for rank in ranks]
    assert max(computed) - min(computed) <= 2
    assert sum(computed) <= blocks + 2  # no block twice
    if where == "stored":
        (pool,) = kept_pools(folder / "pools")
        assert pool.epochs == (0, 1)


def test_what_the_first_rank_tells_all_know(ranks):
    for rank in ranks:
        tensors, plain = rank["told"]
        assert tensors["a"].tolist() == [0, 1, 2]
        assert plain == {"rank": 0}


def test_ranks_that_differ_and_batches_too_small_are_refused(ranks):
    for rank in ranks:
        differ, small = rank["refused"]
        assert differ.startswith("the plan is not the same on all ranks: rank 0 has 0000000000000000, rank 1 has 0101")
        assert small == "a batch of 1 images cannot be shared by 2 ranks; start fewer"


def test_ranks_are_what_torchrun_says(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.here() == ALONE
    for name, value in (("RANK", 5), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("MASTER_ADDR", "host"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    assert Ranks.here() == Ranks(5, 8, 1)
    assert not Ranks.here().first


def test_a_lost_rank_is_told_apart_from_other_errors(monkeypatch):
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend: None)
    lost = pytest.raises(RankError, match=r"rank 1 of 2 lost the others.*goes on from the last checkpoint")
    with lost, Ranks(1, 2, 1).connected(cuda=False):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), Ranks(1, 2, 1).connected(cuda=False):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_each_rank_has_a_gpu_of_its_own_or_all_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert Machine.choose(Compute(device="auto", threads=1), Ranks(1, 2, 1)).device == "cuda:1"
    assert taken == [1]
    assert Machine.choose(Compute(device="cpu", threads=1), Ranks(1, 2, 1)).record()["ranks"] == 2
    with pytest.raises(ValueError, match="rank 2 needs a GPU of its own and there are 2"):
        Machine.choose(Compute(device="cuda", threads=1), Ranks(2, 3, 2))
    with pytest.raises(ValueError, match=r"compute\.device = 'cuda:1' names one device and there are 2 ranks"):
        Machine.choose(Compute(device="cuda:1", threads=1), Ranks(0, 2, 0))
