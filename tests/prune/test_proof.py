"""The proof of cuts of networks that take or give unusual numbers."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from attar.prune import ProofError, Pruner
from attar.prune.proof import TOLERANCE, Proof, random_call, relative_error

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
INF, NAN = float("inf"), float("nan")


class Around(nn.Module):
    """Two convolutions and a head between `enter` and `leave`."""

    def __init__(self, enter=lambda x: x, leave=lambda y: y) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.enter, self.leave = enter, leave

    def forward(self, x):
        return self.leave(self.head(torch.relu(self.second(torch.relu(self.first(self.enter(x))))).mean((2, 3))))


SOUND = {
    "logarithm": Around(torch.log),
    "root": Around(torch.sqrt),
    "truth": Around(leave=lambda y: (y, y > 0)),
    "masked logits": Around(leave=lambda y: y.masked_fill(torch.tensor([True, False, False, False]), -INF)),
    "whole numbers": Around(leave=lambda y: (y, (y > 1e9).long())),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_are_proved(name):
    pruner = Pruner(deepcopy(SOUND[name]), IMAGES)
    cut = pruner.step({"params": int(pruner.cost().params * 0.6)})
    assert cut.proof <= TOLERANCE


@pytest.mark.parametrize("name", ["logarithm", "masked logits"])
def test_a_wrong_cut_is_still_seen(name, monkeypatch):
    pruner = Pruner(deepcopy(SOUND[name]), IMAGES)
    candidate = Proof.candidate

    def wrong(proof):
        network = candidate(proof)
        network.head.bias.data += 1e-3
        return network

    monkeypatch.setattr(Proof, "candidate", wrong)
    with pytest.raises(ProofError, match="differs"):
        pruner.step({"params": int(pruner.cost().params * 0.9)})


def test_an_answer_that_is_no_number_is_named():
    pruner = Pruner(Around(lambda x: torch.log(-1 - x.abs())), IMAGES)
    with pytest.raises(ProofError, match="answers with NaN"):
        pruner.step({"params": int(pruner.cost().params * 0.6)})


def test_errors_of_unusual_numbers():
    def error(first, second):
        return relative_error([torch.tensor(first)], [torch.tensor(second)])

    assert error([-INF, INF, 2.0], [-INF, INF, 1.0]) == 0.5
    assert error([-INF, 2.0], [INF, 2.0]) == error([1.0, 2.0], [INF, 2.0]) == error([NAN, 2.0], [NAN, 2.0]) == INF
    assert error([True, False], [True, False]) == error([0, 0], [0, 0]) == error([-INF], [-INF]) == 0
    assert error([True, False], [True, True]) == error([1 + 0j], [0j]) == 1


def test_numbers_in_the_examples_range():
    example = (torch.tensor([3.0, 5.0, -INF]).expand(100, 3), torch.ones(100), torch.zeros(100), torch.tensor([1, 2]))
    call = random_call(example, {}, torch.device("cpu"), in_range=True)[0]
    assert [(int(t.min()), int(t.max().ceil())) for t in call] == [(3, 5), (0, 2), (0, 1), (1, 2)]
    assert all(t.unique().numel() == t.numel() for t in call)
