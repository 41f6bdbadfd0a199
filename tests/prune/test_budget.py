"""Budgets: what may be written, what it means for a network, and how it falls over the steps."""

import subprocess
import sys

import pytest

from attar.recipe import Budget

ORIGINAL = {"params": 272_186, "macs": 31_021_952, "bytes": 1_088_744, "latency": 0.004}


@pytest.mark.parametrize(
    ("given", "kind", "limit"),
    [
        (100_000, "params", 100_000),
        (1e5, "params", 100_000),
        (99_603.9, "params", 99_603),
        ("100k", "params", 100_000),
        ("1.5M", "macs", 1_500_000),
        ("1_000", "bytes", 1000),
        ("1,234,000.5", "macs", 1_234_000),
        ("25%", "params", 68_046),  # 68,046.5 rounded down
        ("33.3%", "bytes", 362_551),  # in exact arithmetic, not in floating point
        ("100%", "macs", 31_021_952),
        (0.002, "latency", 0.002),
        ("2ms", "latency", 0.002),
        ("50%", "latency", 0.002),
    ],
)
def test_limits_become_figures(given, kind, limit):
    assert Budget(**{kind: given}).resolve(ORIGINAL) == {kind: pytest.approx(limit, rel=1e-12)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "limits nothing"),
        ({"params": 0}, "above zero"),
        ({"params": -5}, "above zero"),
        ({"params": 0.25}, "write params='25%'"),
        ({"params": float("nan")}, "finite"),
        ({"params": True}, "no limit"),
        ({"params": [1]}, "no limit"),
        ({"params": "many"}, "cannot be read"),
        ({"params": "1e999999999"}, "cannot be read"),
        ({"params": "1,5M"}, "cannot be read: .* '1.5M', thousands '1,500,000'"),
        ({"latency": "0,500s"}, "cannot be read: .* '1.5M'"),
        ({"params": "100,00"}, "cannot be read"),
        ({"params": "-10%"}, "cannot be read"),
        ({"params": "0%"}, "above 0%"),
        ({"params": "150%"}, "at most 100%"),
        ({"params": "5ms"}, "unknown unit 'ms'"),
        ({"latency": "5k"}, "unknown unit 'k'"),
        ({"latency": "0ms"}, "above zero"),
        ({"params": "0.5"}, "at least 1"),
        ({"params": 5, "batch": 0}, "batch=0"),
        ({"params": 5, "threads": 1.5}, "threads=1.5"),
    ],
)
def test_what_is_no_limit_is_refused_with_the_way_out(arguments, said):
    with pytest.raises(ValueError, match=said):
        Budget(**arguments)


def test_share_needs_the_original():
    with pytest.raises(ValueError, match="latency='50%' is a share"):
        Budget(latency="50%").resolve({"params": 10})


def test_several_limits_at_once():
    budget = Budget(params="50%", macs=10_000_000, latency="3ms")
    assert budget.limited == ("params", "macs", "latency")
    assert budget.resolve(ORIGINAL) == {"params": 136_093, "macs": 10_000_000, "latency": 0.003}
    assert str(budget) == "params <= 50%, macs <= 10,000,000, latency <= 3ms"
    assert str(Budget(params=1e5, latency=0.002)) == "params <= 100,000, latency <= 0.002"


@pytest.mark.parametrize("shape", ["geometric", "linear"])
def test_schedule_falls_to_the_budget_and_never_below(shape):
    limits = [step["params"] for step in Budget(params=100_000).schedule(ORIGINAL, 30, shape)]
    assert len(limits) == 30
    assert limits[-1] == 100_000
    falls = [before - after for before, after in zip([272_186, *limits], limits)]
    assert min(falls) > 0
    shares = [after / before for before, after in zip([272_186, *limits], limits)]
    steady = shares if shape == "geometric" else falls
    assert max(steady) - min(steady) < (1e-4 if shape == "geometric" else 3)


def test_schedule_of_a_limit_that_holds_already_stays():
    steps = Budget(params=100_000, macs=10**9).schedule(ORIGINAL, 3)
    assert [step["macs"] for step in steps] == [10**9] * 3
    with pytest.raises(ValueError, match="schedule"):
        Budget(params=5).schedule(ORIGINAL, 3, "cubic")


def test_budget_needs_no_torch():
    code = "import sys; from attar.recipe.budget import Budget; Budget(params=1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
