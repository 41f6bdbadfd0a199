"""The proof of cuts of networks that take or give unusual numbers."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from attar.prune import ProofError, Pruner
from attar.prune.answers import TOLERANCE, relative_error
from attar.prune.proof import Proof
from attar.prune.questions import random_call

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


def test_an_answer_that_hardly_hangs_on_the_inputs_is_measured_by_what_does():
    first, share = torch.tensor([1.0, -2.0, 1.5], dtype=torch.float64), 1e-6

    def error(difference):
        return relative_error([first], [first + torch.tensor([difference, 0, 0])], [share])

    assert 1e-16 < error(2e-15) < 1e-14  # rounding is told as what it is
    assert error(2e-9) == pytest.approx(1e-3, rel=1e-3)


def test_numbers_in_the_examples_range():
    example = (torch.tensor([3.0, 5.0, -INF]).expand(100, 3), torch.ones(100), torch.zeros(100), torch.tensor([1, 2]))
    call = random_call(example, {}, torch.device("cpu"), numbers="range")[0]
    assert [(int(t.min()), int(t.max().ceil())) for t in call] == [(3, 5), (0, 2), (0, 1), (1, 2)]
    assert all(t.unique().numel() == t.numel() for t in call)


class ByWidth(nn.Module):
    """Divides by its width, as a number of its code: wrong once units are gone, unless the graph runs."""

    def __init__(self, inputs: int = 7, outputs: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, 32), nn.Linear(32, outputs)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).tanh()
        return self.b(h / h.shape[1])


class Forbidding(ByWidth):
    def forward(self, x: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        return self.hidden(x).masked_fill(~legal, -1e9)


class Added(ByWidth):
    def forward(self, x: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
        return self.hidden(x) + torch.where(legal, 0.0, -1e9)


class Dim(ByWidth):
    """Silent but for large numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).relu()
        return (self.b(h / h.shape[1]) - 9).relu()


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 16), nn.Linear(16, 50)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out((q @ k.transpose(1, 2) / q.shape[-1]).softmax(-1) @ v)


class Table(nn.Module):
    """One column is a category."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.a, self.b = nn.Embedding(5, 4), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(torch.cat([x[:, :3], self.kinds(x[:, 3].long())], 1)).relu())


def zeroed(model: nn.Module, cut) -> nn.Module:
    """A copy with zeros where the cut takes something away."""
    other = deepcopy(model)
    tensors = dict(other.named_parameters())
    for name, cuts in cut.items():
        for dim, stays in cuts:
            gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
            gone[stays] = False
            tensors[name].data.index_fill_(dim, gone.nonzero()[:, 0], 0)
    return other


LEGAL = torch.tensor([[True, True, True, False]])
NUMBERS = torch.cat([torch.randn(32, 3), torch.arange(32)[:, None] % 5.0], 1)


@pytest.mark.parametrize(
    ("make", "example", "call"),
    [
        (Forbidding, (torch.randn(2, 7), LEGAL.expand(2, 4)), (torch.randn(9, 7), LEGAL.expand(9, 4))),
        (Added, (torch.randn(2, 7), LEGAL.expand(2, 4)), (torch.randn(9, 7), LEGAL.expand(9, 4))),
        (Dim, (torch.rand(2, 7) * 255,), (torch.rand(9, 7) * 255,)),
        (Words, (torch.zeros(2, 8, dtype=torch.long),), (torch.randint(50, (2, 8)),)),
        (Table, (NUMBERS,), (NUMBERS.flip(0),)),
    ],
)
def test_answers_that_would_hide_an_error(make, example, call):
    """By one huge logit, by silence, by one word everywhere, or as normal numbers are no categories."""
    torch.manual_seed(0)
    model = make()
    if make is Dim:
        with torch.no_grad():
            model.b.weight.abs_()
            model.a.weight.abs_()
    before = deepcopy(model)
    pruner = Pruner(model, example)
    cut = pruner.step({"params": (pruner.cost().params + pruner.minimum().params) // 2})
    assert cut.proof < 1e-10 and not any("tell little" in note for note in cut.notes)
    wanted, found = zeroed(before, cut.kept)(*call), model(*call)
    assert bool(wanted.any())
    right = LEGAL.expand_as(wanted) if len(call) > 1 else torch.ones_like(wanted, dtype=torch.bool)
    torch.testing.assert_close(found[right], wanted[right], rtol=1e-4, atol=1e-4)


def test_an_answer_in_classes_is_called_weak():
    torch.manual_seed(0)
    model = Around(leave=lambda y: y.argmax(1))
    pruner = Pruner(model, IMAGES)
    cut = pruner.step({"params": int(pruner.cost().params * 0.6)})
    assert any("tell little" in note for note in cut.notes)


class Faint(ByWidth):
    """Hardly hears what it is asked, as a class token behind tiny scales does; of many answers some are near zero."""

    def __init__(self, divides: bool) -> None:
        super().__init__(outputs=2000)
        self.token, self.divides = nn.Parameter(torch.randn(32)), divides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x).tanh()
        return self.b(self.token + 1e-7 * (h / h.shape[1] if self.divides else h))


@pytest.mark.parametrize(("divides", "runs"), [(False, "module"), (True, "graph")])
def test_rounding_is_no_error_where_answers_hardly_change(divides: bool, runs: str) -> None:
    torch.manual_seed(0)
    pruner = Pruner(Faint(divides), torch.randn(2, 7))
    cut = pruner.step({"params": int(pruner.cost().params * 0.6)})
    assert cut.proof < 1e-10 and pruner.mode.startswith(runs)
