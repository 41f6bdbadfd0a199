"""scripts/record_runs.py: stopped by its time and called again, it ends with runs, controls, records and artifacts."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from small_runs import SMALL

from attar.artifact import verify
from attar.pipeline import stage_loop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("record_runs", ROOT / "scripts" / "record_runs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_runs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["record_runs"]


def test_pieces_of_limited_time_end_with_everything_a_record_needs(script, tmp_path, monkeypatch):
    runs, out = tmp_path / "runs", tmp_path / "out"
    command = [str(ROOT / "recipes/digits.toml"), *SMALL, "--seeds", "0,1", "--runs", str(runs), "--state"]
    steps, show = 0, stage_loop.StageLoop._show

    def slow(loop, progress, label, training):  # the clock runs out in the middle of the first student's training
        nonlocal steps
        show(loop, progress, label, training)
        steps += 1
        if steps == 30:
            script.signal.raise_signal(script.signal.SIGALRM)

    monkeypatch.setattr(stage_loop.StageLoop, "_show", slow)
    assert script.main([*command, "--out", str(out)]) == script.TIME_IS_UP
    status = json.loads((out / "status.json").read_text())
    assert status["exit_code"] == script.TIME_IS_UP and status["runs"]["digits-0"]["stages"] == ["teach"]
    shutil.rmtree(runs)  # another machine, which has only what was brought home
    monkeypatch.setattr(script, "PIECE", 100_000)
    home = out.rename(tmp_path / "home")
    assert script.main([*command, "--out", str(out), "--restore", str(home)]) == 0
    pieces = sorted(out.glob("home.tar.*"))
    assert max(piece.stat().st_size for piece in pieces) == 100_000
    (tmp_path / "home.tar").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    shutil.unpack_archive(tmp_path / "home.tar", came := tmp_path / "came")
    status = json.loads((out / "status.json").read_text())["runs"]
    for seed in (0, 1):
        found = status[f"digits-{seed}"]
        assert found["done"] and found["controls"] == ["control with teacher", "control without teacher"]
        record = json.loads((came / f"records/digits/{seed}/record.json").read_text())
        assert record["recipe"]["seed"] == seed and len(record["controls"]) == 2
        assert verify(came / f"artifacts/digits-{seed}")
    assert len(list(runs.glob("teacher-*"))) == 1  # one teacher for both seeds
    before = steps
    assert script.main([*command, "--out", str(out)]) == 0 and steps == before  # nothing is left to do


def test_no_time_is_told(script, tmp_path):
    given = [str(ROOT / "recipes/digits.toml"), *SMALL, "--seconds", "0", "--runs", str(tmp_path / "runs")]
    assert script.main([*given, "--out", str(tmp_path / "out")]) == script.TIME_IS_UP
    assert json.loads((tmp_path / "out/status.json").read_text()) == {"exit_code": 3, "runs": {}}


def test_one_failure_loses_nothing_of_the_others(script, tmp_path, monkeypatch, capsys):
    done = []

    def carry_out(job, controls, deadline):
        if job.recipe.seed == 0:
            raise MemoryError("no room")
        done.append(job.recipe.seed)

    monkeypatch.setattr(script, "carry_out", carry_out)
    monkeypatch.setattr(script, "taught", lambda recipe, options, deadline: recipe.model_dump(mode="json"))
    given = [str(ROOT / "recipes/digits.toml"), "--seeds", "0,1", "--runs", str(tmp_path / "runs")]
    assert script.main([*given, "--out", str(tmp_path / "out")]) == script.FAILED
    assert done == [1] and "digits-0 failed" in capsys.readouterr().err
    assert set(json.loads((tmp_path / "out/status.json").read_text())["runs"]) == {"digits-0", "digits-1"}
