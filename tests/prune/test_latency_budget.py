"""Budgets in seconds on a real network: cut copies are timed, by a clock that the test holds."""

import pytest
import torch

from attar.models import build
from attar.prune import BudgetError, Pruner, engine
from attar.prune.latency import Latency
from attar.recipe import Budget


def test_latency_is_measured_on_cut_copies(monkeypatch):
    measured = []

    def clock(module, example, batch, threads):
        """A microsecond a parameter, plus ten for the batch: whatever else this machine is doing."""
        module(*example)
        measured.append((sum(p.numel() for p in module.parameters()), batch, threads))
        return Latency(1e-6 * (measured[-1][0] + 10 * batch), 0, 1, batch, threads, 1)

    monkeypatch.setattr(engine, "measure_latency", clock)
    torch.manual_seed(0)
    pruner = Pruner(build("resnet20"), torch.randn(1, 1, 28, 28))
    assert pruner.limits(Budget(latency="50%", batch=16)) == {"latency": pytest.approx(0.5e-6 * (272_186 + 160))}
    cut = pruner.step(Budget(latency="50%", batch=16, threads=2, params="90%"))
    assert 125_000 < cut.after.params <= 136_093
    assert cut.proof < 1e-10
    assert {(batch, threads) for _, batch, threads in measured} == {(16, 1), (16, 2)}
    assert len({params for params, _, _ in measured}) > 3
    assert sum(p.numel() for p in pruner.model.parameters()) == cut.after.params  # the copies were copies
    with pytest.raises(ValueError, match="not measured before the first cut"):
        pruner.limits(Budget(latency="50%", batch=2))
    again = pruner.step({"latency": 0.1})
    assert 90_000 < again.after.params < 100_000
    with pytest.raises(BudgetError, match="smallest reachable network takes"):
        pruner.step({"latency": 1e-6})


def test_counted_limits_are_refused_before_anything_is_done():
    pruner = Pruner(build("resnet20"), torch.randn(1, 1, 28, 28))
    with pytest.raises(BudgetError, match=r"params <= 100 \(the smallest reachable is 235\)") as caught:
        pruner.minimum(Budget(params=100))
    assert caught.value.smallest["params"] == 235
    assert pruner.minimum(Budget(params=235)).params == 235
    with pytest.raises(ValueError, match="did you mean 'global'"):
        Pruner(build("resnet20"), torch.randn(1, 1, 28, 28), allocation="globel")
