"""Runs whose budget limits seconds: what was allowed, what the artifact takes, and whether that held."""

import json
from dataclasses import replace

import pytest
from small_runs import DIGITS, SMALL

from attar.pipeline import finish, run, stage_loop
from attar.prune import BudgetError, engine
from attar.prune.latency import Latency
from attar.recipe import RecipeError, load_recipe


class Stopped(Exception):
    pass


@pytest.fixture
def stops(monkeypatch):
    """The first training of the stage prune is stopped; filled when that has happened."""
    happened, fit = [], stage_loop.StageLoop.fit

    def stopping(loop, *arguments, **keywords):
        if loop.stage == "prune" and not happened:
            happened.append(1)
            raise Stopped
        return fit(loop, *arguments, **keywords)

    monkeypatch.setattr(stage_loop.StageLoop, "fit", stopping)
    return happened


def written(folder):
    return [(folder / "artifact" / name).read_text() for name in ("report.md", "report.html")]


def test_a_limit_in_seconds_is_held_and_told(tmp_path):
    recipe = load_recipe(DIGITS, (*SMALL, "prune.steps=1", "prune.budget.latency=60s", "prune.budget.batch=3"))
    facts = run(recipe, tmp_path / "run")
    assert facts["budget"]["latency"] == 60
    told = facts["budget_latency"]
    assert told["held"] and 0 < told["seconds"] < 60 and (told["batch"], told["threads"]) == (3, 1)
    assert json.loads((tmp_path / "run/artifact/report.json").read_text())["budget_latency"] == told
    page, html = written(tmp_path / "run")
    assert f"- Budget latency <= 60 s: **held** with {told['seconds']:.4g} s (a batch of 3, 1 thread)." in page
    assert "seconds for a batch of 3" in html and f"{told['seconds']:.4g} s of 60 s" in html
    assert run(recipe, tmp_path / "run")["budget_latency"] == told  # measured once


def test_a_share_is_of_the_whole_network_though_the_run_was_stopped(tmp_path, monkeypatch, stops):
    """A clock that the test holds: a microsecond a parameter and an image of the batch."""
    measured = []

    def clock(module, example, batch, threads):
        measured.append((sum(parameter.numel() for parameter in module.parameters()), batch, threads))
        slow = 10 if stops and measured[-1][0] == max(measured)[0] else 1  # the whole network is measured anew
        return Latency(slow * 1e-6 * measured[-1][0] * batch, 0, 1, batch, threads, 1)

    def late_clock(*how):
        return replace(clock(*how), seconds=5.0)

    monkeypatch.setattr(engine, "measure_latency", clock)
    monkeypatch.setattr(finish, "measure_latency", late_clock)
    share = ("prune.budget.params=100%", 'prune.budget.latency="60%"', "prune.budget.batch=4")
    recipe = load_recipe(DIGITS, (*SMALL, *share))
    with pytest.raises(Stopped):
        run(recipe, tmp_path / "run")
    facts = run(recipe, tmp_path / "run")
    params = {when: facts["cost"][when]["params"] for when in ("before", "after")}
    assert facts["budget"]["latency"] == pytest.approx(4e-6 * 0.6 * params["before"])
    assert 0.5 * params["before"] < params["after"] <= 0.6 * params["before"]
    assert {how[1:] for how in measured} == {(4, 1)}
    told = facts["budget_latency"]
    assert told["seconds"] == 5.0 and not told["held"]
    page, html = written(tmp_path / "run")
    assert "**MISSED** with 5 s (a batch of 4, 1 thread)" in page and "MISSED" in html


@pytest.mark.parametrize("limit", ["0.001us", "0.001%"])
def test_seconds_that_no_network_keeps_are_refused_before_training(tmp_path, limit):
    recipe = load_recipe(DIGITS, (*SMALL, f"prune.budget.latency='{limit}'"))
    with pytest.raises(
        RecipeError, match=r"prune: the budget cannot be met: latency .* smallest reachable network takes"
    ):
        run(recipe, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_machine_that_turned_slow_does_not_spoil_a_run_under_way(tmp_path, monkeypatch, stops):
    """The smallest is measured again until pruning begins; after that a step that misses its limit tells the final one."""
    seconds = [1.0]

    def clock(module, example, batch, threads):
        return Latency(seconds[-1], 0, 1, batch, threads, 1)

    monkeypatch.setattr(engine, "measure_latency", clock)
    recipe = load_recipe(DIGITS, (*SMALL, 'prune.budget.latency="2s"'))
    with pytest.raises(Stopped):
        run(recipe, tmp_path / "run")
    seconds.append(3.0)
    with pytest.raises(BudgetError, match=r"step 2, on the way to .*latency <= 2s: the budget cannot be met"):
        run(recipe, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    with pytest.raises(RecipeError, match="smallest reachable network takes 3000 ms"):
        run(recipe, tmp_path / "run")
