"""The benchmarks run: every script's quick mode, and the page made from the kept results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [
    "augmentation",
    "distillation_overhead",
    "grouped_step",
    "pruned_step",
    "scaling",
    "start_up",
    "step_overhead",
    "whole_recipe",
]


@pytest.mark.parametrize("name", NAMES)
def test_quick_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    result = importlib.import_module(name).measure(True, 1)
    assert result.name == name
    assert all(figure.median > 0 for figure in result.figures)
    assert all(goal.name in result.show() for goal in result.goals)


def test_a_result_is_kept_with_its_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    measuring = importlib.import_module("measuring")
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measuring.in_turn(cases, rounds=3)
    assert "".join(calls) == "ab" + "ba" + "ab" + "ba"  # one of warm-up
    result = measuring.Result("start_up", "Start", {"batch": 1}, threads=1)
    result.figures = [measuring.Figure.of("a", "s", times["a"])]
    result.goals = [measuring.Goal("b / a", measuring.ratio("", [2.0, 2.0, 9.0], [1.0, 2.0, 3.0]), 3, at_least=False)]
    record = json.loads(result.write("quiet").read_text())
    assert record["goals"][0]["ratio"]["median"] == 2 and record["goals"][0]["met"]
    assert record["conditions"] == "quiet" and record["versions"]["torch"] and record["machine"]["cores"] >= 1
    page(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert "| b / a | 2 [1.5, 2.5] | at most 3 | yes |" in (tmp_path / "page.md").read_text()


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    page(["--check"])
    with pytest.raises(subprocess.CalledProcessError):
        page(["--check", "--out", str(tmp_path / "other.md")])


def page(arguments: list[str]) -> None:
    script = str(ROOT / "scripts" / "benchmark_page.py")
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)
