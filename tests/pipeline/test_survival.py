"""A run survives anything: killed at random moments and continued, it ends with the bits of a run left in peace."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import DIGITS, SMALL

from attar.pipeline import folder as folder_module
from attar.pipeline import run
from attar.pipeline.folder import RunError, RunFolder
from attar.pipeline.interrupt import Interrupted, StopSignal
from attar.recipe import load_recipe

ROOT = Path(__file__).parents[2]
BEGUN, IN_PRUNE, IN_EXPORT, IN_REPORT = "*.safetensors", "distil.safetensors", "prune.safetensors", "export.safetensors"
MOMENTS = (BEGUN, BEGUN, IN_PRUNE, IN_PRUNE, IN_EXPORT, IN_REPORT)
"""What is there when a run is killed; while it trains, not at once but within half a second of its next checkpoint."""

RECIPE = """
name = "survivor"
[data]
source = "digits"
held_out = 150
[augment]
crop_padding = 1
flip = 0
[teacher]
model = "resnet20"
arguments = { widths = [6, 8, 10] }
[teacher.train]
epochs = 3
batch = 64
[student]
model = "resnet20"
arguments = { widths = [4, 6, 8] }
[distil]
view_pool = 2
[distil.train]
epochs = 3
batch = 64
ema = 0.9
[prune]
steps = 12
allocation = "global"
[prune.budget]
params = "50%"
[prune.train]
epochs = 1
batch = 64
learning_rate = 0.05
ema = 0.9
[export]
onnx = false
[compute]
device = "cpu"
threads = 1
checkpoint_seconds = 0.2
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("survival") / "survivor.toml"
    file.write_text(RECIPE)
    return file


def start(recipe: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "attar", "run", str(recipe), "--out", str(out)]
    environment = {**os.environ, "ATTAR_CACHE": str(out.parent / "cache"), "ATTAR_VIEW_CACHE": "auto"}
    # whatever started the tests may have told them not to hear Ctrl-C
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hears
    )


def finish(recipe: Path, out: Path) -> str:
    process = start(recipe, out)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "run"
    finish(recipe, out)
    return out


def test_a_run_killed_again_and_again_ends_in_the_same_bits(recipe, straight, tmp_path):
    out = tmp_path / "run"
    random_moment = random.Random(20261122)
    for kill, sign in enumerate(MOMENTS, 1):
        process = start(recipe, out)
        if sign in (BEGUN, IN_PRUNE):
            _wait_for_checkpoint(out, process)  # a start spends its first seconds on imports and capture
        _wait_for(out, sign, process)
        if sign in (BEGUN, IN_PRUNE):
            time.sleep(random_moment.uniform(0, 0.5))
        assert process.poll() is None, f"the run ended before kill {kill}; make it longer"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "artifact/report.json").exists()
    finish(recipe, out)
    for stage in ("teach", "distil", "prune"):
        old, new = load_file(straight / f"{stage}.safetensors"), load_file(out / f"{stage}.safetensors")
        assert old.keys() == new.keys()
        assert all(old[name].equal(new[name]) for name in old), stage
    assert (straight / "artifact/model.safetensors").read_bytes() == (out / "artifact/model.safetensors").read_bytes()
    assert _log(straight) == _log(out)
    assert _report(straight) == _report(out)


def _wait(there, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, "the run ended before that"
        assert time.monotonic() < deadline, "two minutes without it"
        time.sleep(0.01)


def _wait_for(out: Path, sign: str, process: subprocess.Popen) -> None:
    _wait(lambda: any(out.glob(sign)), process)


def _wait_for_checkpoint(out: Path, process: subprocess.Popen) -> None:
    """Until this start has written something, so that kills make progress."""
    newest = _newest(out)
    _wait(lambda: _newest(out) != newest, process)


def _newest(out: Path) -> float:
    return max((file.stat().st_mtime_ns for file in out.glob("*.safetensors")), default=0)


def _log(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_second", "seconds")} for line in lines
    ]


def _report(out: Path) -> dict:
    report = json.loads((out / "artifact/report.json").read_text())
    return {key: report[key] for key in ("test", "frontier", "cost", "held_out", "budget", "layers")}


def test_ctrl_c_saves_and_leaves_cleanly(recipe, tmp_path):
    out = tmp_path / "run"
    rare = tmp_path / "rare.toml"
    rare.write_text(recipe.read_text().replace("checkpoint_seconds = 0.2", "checkpoint_seconds = 600"))
    process = start(rare, out)
    _wait_for(out, "teach.safetensors", process)
    _wait(lambda: '"distil"' in (out / "metrics.jsonl").read_text(), process)  # an epoch is over, others are not
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert (out / "checkpoint.safetensors").exists()  # none was due for minutes


def test_a_signal_that_nobody_saw_interrupts_where_it_was_waited_for():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        raise Interrupted


def test_a_run_killed_while_its_first_file_is_written_begins_anew(tmp_path):
    recipe = load_recipe(DIGITS)
    facts = {
        "command": "attar run", "environment": {"commit": None, "versions": {}},
        "data": {"fingerprint": "f"}, "split": {"digest": "d"},
    }  # fmt: skip
    (tmp_path / ".run.json.partial").write_text('{"reci')
    with RunFolder(tmp_path) as folder:
        assert folder.adopt(recipe, facts) == facts
    (tmp_path / "run.json").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with RunFolder(tmp_path) as folder, pytest.raises(RunError, match=r"not a run folder and holds notes\.txt"):
        folder.adopt(recipe, facts)


def test_a_line_torn_off_the_log_is_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n{"loss": 0.5}\n{"stage": "dis')
    assert RunFolder(tmp_path).metrics() == [{"loss": 1.0}, {"loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0}\n{"stage": "dis\n{"loss": 0.5}\n')
    with pytest.raises(ValueError, match=r"Unterminated string|control character"):
        RunFolder(tmp_path).metrics()


def test_a_stage_that_is_done_again_leaves_the_middle_of_a_later_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.finish("teach", {}, {})
    folder.finish("distil", {}, {})
    folder.begin("prune")
    folder.checkpoint("prune", {}, {})
    (tmp_path / "distil.safetensors").unlink()
    with pytest.raises(RunError, match=r"in the middle of prune, and distil\.safetensors, from before it, is gone"):
        folder.begin("distil")
    folder.finish("distil", {}, {})  # taken, not trained
    assert folder.under_way("prune")
    folder.begin("prune")
    folder.finish("distil", {}, {})
    folder.checkpoint("distil", {}, {})  # killed between keeping a result and dropping the checkpoint
    folder.begin("prune")


def test_stages_that_are_done_again_leave_the_log_of_the_others(tmp_path):
    folder = RunFolder(tmp_path)
    for stage in ("teach", "distil", "prune"):
        folder.begin(stage)
        for number in range(3):
            folder.log(stage=stage, number=number)
        folder.finish(stage, {}, {})
    for stage in ("teach", "prune", "distil"):
        (tmp_path / f"{stage}.safetensors").unlink()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"torn')
        folder.begin(stage)
        folder.log(stage=stage, number=3)
        folder.finish(stage, {}, {})
    told = [(line["stage"], line["number"]) for line in folder.metrics()]
    assert told == [("teach", 3), ("prune", 3), ("distil", 3)]


def test_a_run_with_dropout_stopped_between_stages_ends_in_the_same_bits(tmp_path):
    network = "student.arguments={widths=[8,8,8],hidden=16,size=8,dropout=0.2}"
    recipe = load_recipe(DIGITS, (*SMALL, "student.model=cnn5", network, "prune.final.epochs=0.1"))
    run(recipe, tmp_path / "straight", until="prune")
    run(recipe, tmp_path / "stopped", until="distil")
    torch.rand(7)  # another process starts from other generators
    run(recipe, tmp_path / "stopped", until="prune")
    for stage in ("distil", "prune"):
        one, other = (load_file(tmp_path / name / f"{stage}.safetensors") for name in ("straight", "stopped"))
        assert all(one[name].equal(other[name]) for name in one), stage


def test_a_folder_in_use_is_refused(recipe, tmp_path):
    out = tmp_path / "run"
    process = start(recipe, out)
    _wait_for_checkpoint(out, process)
    second = start(recipe, out)
    said, _ = second.communicate(timeout=60)
    process.kill()
    process.communicate()
    assert second.returncode == 2
    assert f"in use by process {process.pid}" in said


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_module.fcntl, "flock", no_locks)
    with (
        pytest.raises(RunError, match=f"cannot lock the run folder {tmp_path}: No locks available"),
        RunFolder(tmp_path),
    ):
        pass


def test_a_damaged_file_of_a_run_is_named(tmp_path):
    recipe = load_recipe(DIGITS)
    (tmp_path / "run.json").write_text('{"recipe": {')
    with pytest.raises(RunError, match=r"run\.json is damaged \(Expecting"), RunFolder(tmp_path) as folder:
        folder.adopt(recipe, {})


def test_a_finished_run_is_not_done_again(recipe, straight):
    out = straight
    weights = (out / "artifact/model.safetensors").stat().st_mtime_ns
    read = json.loads((out / "test.json").read_text())["read"]
    said = finish(recipe, out)
    assert "done before" in said
    assert (out / "artifact/model.safetensors").stat().st_mtime_ns == weights
    assert json.loads((out / "test.json").read_text())["read"] == read


def test_a_changed_recipe_is_refused_with_the_difference(recipe, straight, tmp_path):
    command = [sys.executable, "-m", "attar", "run", str(recipe), "distil.temperature=2", "--out", str(straight)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "distil.temperature: 4.0 -> 2.0" in done.stderr


def test_a_run_of_an_attar_that_knew_fewer_keys_goes_on(recipe, straight, tmp_path):
    out = shutil.copytree(straight, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    del record["recipe"]["distil"]["temperature"], record["recipe"]["augment"]["erase_fill"]
    (out / "run.json").write_text(json.dumps(record))
    assert "done before" in finish(recipe, out)


def test_a_run_goes_on_where_its_data_was_fetched_the_first_time(recipe, straight, tmp_path):
    out = shutil.copytree(straight, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    record["data"]["source"] = "fetched from somewhere; in the cache by now"
    (out / "run.json").write_text(json.dumps(record))
    assert "done before" in finish(recipe, out)
    record["data"]["fingerprint"] = "0" * 64
    (out / "run.json").write_text(json.dumps(record))
    process = start(recipe, out)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "started on another data" in said
