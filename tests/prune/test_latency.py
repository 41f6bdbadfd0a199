"""Latency: how it is measured, and plans that keep a measured limit. No test depends on how fast this machine is."""

import pytest
import torch
from synthetic_structures import random_scores, resnet20
from torch import nn

from attar.prune.allocation import BudgetError
from attar.prune.cost import costs
from attar.prune.latency import choose_by_latency, measure_latency


class Watched(nn.Module):
    """Remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.drop, self.calls = nn.Dropout(), []

    def forward(self, x, scale):
        self.calls.append((tuple(x.shape), self.drop.training, torch.get_num_threads(), torch.is_grad_enabled()))
        return x * scale


def test_measures_in_eval_mode_at_the_batch_and_threads_it_states():
    module, threads = Watched(), torch.get_num_threads()
    found = measure_latency(module, (torch.ones(2, 3), torch.tensor(2.0)), batch=5, threads=threads + 1, repeats=10)
    assert set(module.calls) == {((5, 3), False, threads + 1, False)}
    assert len(module.calls) > 10  # some untimed ones first
    assert module.drop.training
    assert torch.get_num_threads() == threads
    assert 0 < found.low <= found.seconds <= found.high
    assert f"median of 10, quartiles {found.low * 1e3:.3g}" in str(found)
    assert f"batch 5, {threads + 1} threads" in str(found)
    measure_latency(module, {"x": torch.ones(1, 3), "scale": 3}, batch=2, threads=1, repeats=1)
    assert module.calls[-1] == ((2, 3), False, 1, False)
    with pytest.raises(ValueError, match="batch=0"):
        measure_latency(module, torch.ones(2, 3), batch=0)


def test_an_example_without_a_shared_batch_is_measured_as_it_stands():
    module = Watched()
    example = (torch.ones(2, 3), torch.ones(4, 2, 1))
    measure_latency(module, example, repeats=1)
    assert module.calls[-1][0] == (2, 3)
    with pytest.raises(ValueError, match="share no first dimension"):
        measure_latency(module, example, batch=2)


@pytest.fixture
def task():
    """A machine whose latency is 10 ms + 1 ns a MAC."""
    structure, _ = resnet20()
    return structure, random_scores(structure, 0), lambda kept: 0.01 + 1e-9 * costs(structure, kept)["macs"]


@pytest.mark.parametrize("allocation", ["even", "global", "isomorphic"])
def test_lands_close_under_the_measured_limit(task, allocation):
    structure, scores, measure = task
    limits = {"latency": 0.020, "params": 200_000}
    kept, tried = choose_by_latency(structure, scores, limits, measure, allocation)
    assert measure(kept) <= 0.020
    assert measure(kept) > 0.0185
    assert costs(structure, kept)["params"] <= 200_000
    assert 2 < len(tried) <= 10
    assert all(point.seconds == measure(point.kept) for point in tried)


def test_a_limit_that_the_counted_ones_bring_along_needs_one_measurement(task):
    structure, scores, measure = task
    kept, tried = choose_by_latency(structure, scores, {"latency": 0.03, "params": 100_000}, measure)
    assert len(tried) == 1
    assert costs(structure, kept)["params"] == 99_603


def test_out_of_reach_names_the_fastest(task):
    structure, scores, measure = task
    with pytest.raises(
        BudgetError, match=r"latency <= 5 ms, but the smallest reachable network takes 10\.06 ms"
    ) as caught:
        choose_by_latency(structure, scores, {"latency": 0.005}, measure)
    assert caught.value.smallest["latency"] == pytest.approx(0.01006, rel=1e-3)


def test_noise_never_hands_out_a_network_that_missed_the_limit_when_measured_again(task):
    structure, scores, measure = task
    lucky = iter([1.5, 0.5, 0.5] + [1.0] * 50)  # two measurements came out far too good

    def noisy(kept):
        return measure(kept) * next(lucky)

    kept, _ = choose_by_latency(structure, scores, {"latency": 0.02}, noisy)
    assert measure(kept) <= 0.02
    seen = set()

    def slower_the_second_time(kept):
        macs = costs(structure, kept)["macs"]
        fresh = macs not in seen
        seen.add(macs)
        return 0.01 if kept and fresh else 0.03

    with pytest.raises(BudgetError, match="too noisy"):
        choose_by_latency(structure, scores, {"latency": 0.02}, slower_the_second_time)
