"""Whole runs over two ranks: the same as one process would make, stopped anywhere and continued on another number of ranks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import attar

from attar.pipeline import run
from attar.recipe import load_recipe
from attar.train import read_checkpoint

RECIPE = """
name = "ranked"
[data]
source = "digits"
held_out = 150
[augment]
crop_padding = 1
flip = 0
[teacher]
model = "resnet20"
arguments = { widths = [5, 7, 9] }
[teacher.train]
epochs = 0.5
batch = 63
learning_rate = 0.003
[student]
model = "separable_resnet"
arguments = { widths = [4, 8], depths = [2, 2], strides = [1, 2] }
[distil]
view_pool = 2
[distil.train]
epochs = 0.6
batch = 64
learning_rate = 0.003
ema = 0.9
[prune]
steps = 2
importance = "taylor"
[prune.budget]
params = "60%"
[prune.sparse]
penalty = "growing"
[prune.sparse.train]
epochs = 0.2
batch = 64
learning_rate = 0.003
[prune.train]
epochs = 1.0
batch = 64
learning_rate = 0.003
[export]
onnx = false
pt2 = false
int8 = false
[compute]
device = "cpu"
precision = "fp32"
threads = 1
checkpoint_seconds = 0.1
"""


class Stop(Exception):
    pass


class Listener:
    """Keeps what a run tells, and may stop it in the middle of a stage."""

    def __init__(self, stop_in: str = ""):
        self.notes, self.stop_in = [], stop_in

    def stage(self, name, text):
        pass

    def update(self, update):
        if update.stage == self.stop_in and update.done > 0.3:
            raise Stop

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranked")
    (place / "ranked.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(place / "cache"))
        patch.setenv("ATTAR_VIEW_CACHE", "auto")
        yield place


@pytest.fixture(scope="module")
def alone(place):
    """The run of one process."""
    before = torch.get_num_threads()
    run(load_recipe(place / "ranked.toml"), place / "alone")
    torch.set_num_threads(before)
    return place / "alone"


def torchrun(place: Path, out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "attar"]
    command += arguments or ("run", str(place / "ranked.toml"), "--out", str(out))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def worker(job: subprocess.Popen, rank: int) -> int:
    """The process of one rank."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            known = environ.read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in known and f"PPid:\t{job.pid}\n" in environ.with_name("status").read_text():
                return int(environ.parent.name)
    raise AssertionError(f"no process of rank {rank}")


def close(a: Path, b: Path, stage: str) -> None:
    """The same weights, up to what another order of sums makes of float32 in some dozens of steps."""
    (expected, known), (found, numbers) = (read_checkpoint(folder / f"{stage}.safetensors") for folder in (a, b))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        if name == "kept/.asked":  # digits of what the first proof measured, as text
            continue
        torch.testing.assert_close(
            found[name], tensor, rtol=5e-3, atol=5e-4, msg=lambda said, name=name: f"{name}: {said}"
        )
    for point, other in zip(known.get("frontier", ()), numbers.get("frontier", ()), strict=True):
        assert (point["widths"], point["cost"]) == (other["widths"], other["cost"])


def in_a_step(out: Path) -> bool:
    """Whether the run has trained within a step of pruning, whichever; its checkpoint may be replaced while it is read."""
    try:
        numbers = read_checkpoint(out / "checkpoint.safetensors")[1]
    except (OSError, RuntimeError, ValueError):
        return False
    return numbers["stage"] == "prune" and numbers["step"] >= 1 and numbers["position"]["step"] > 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks' processes in /proc")
def test_a_rank_that_dies_ends_the_job_and_one_process_goes_on(place, alone):
    out = place / "killed"
    job = torchrun(place, out)
    try:
        while not in_a_step(out):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.02)
        os.kill(worker(job, 1), signal.SIGKILL)
        said, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode != 0
    assert "2 ranks, 1 threads each" in said
    assert "rank 0 of 2 lost the others" in said
    assert "The same command goes on from the last checkpoint, on any number of ranks" in said
    for stage in ("teach", "distil"):
        close(alone, out, stage)
    listener = Listener()
    facts = run(load_recipe(place / "ranked.toml"), out, listener)
    assert any("'ranks': 2" in note and "'ranks': 1" in note for note in listener.notes), listener.notes
    close(alone, out, "prune")
    assert facts["machine"]["ranks"] == 2  # of the first start
    assert "2 ranks" in (out / "artifact" / "report.md").read_text()


def test_two_ranks_go_on_where_one_process_stopped(place, alone):
    out = place / "stopped"
    with pytest.raises(Stop):
        run(load_recipe(place / "ranked.toml"), out, Listener(stop_in="prune"))
    assert read_checkpoint(out / "checkpoint.safetensors")[1]["step"] == 1
    job = torchrun(place, out)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert said.count("== prune") == said.count("artifact: ") == 1  # one rank speaks
    close(alone, out, "prune")
    counts = [json.loads((folder / "artifact" / "report.json").read_text())["cost"] for folder in (alone, out)]
    assert counts[0] == counts[1]
    assert (out / "artifact" / "report.html").is_file()
    assert len(json.loads((out / "run.json").read_text())["starts"]) == 2


def test_what_several_ranks_cannot_do_is_refused(place, alone, monkeypatch):
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("LOCAL_RANK", 0), ("MASTER_ADDR", "h"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    refused = attar("control", alone)
    assert refused.exit_code == 2
    assert "attar control runs in one process and torchrun started 2" in refused.stderr
