"""What `attar.prune` says to what it cannot do, and that it says so before anything is changed."""

import pytest
import torch
from torch import nn

import attar
from attar.prune import CaptureError, Pruner, count_params

EXAMPLE = torch.randn(2, 6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def test_a_mapping_stands_for_the_budget_of_its_entries() -> None:
    half = count_params(network()) // 2
    for budget in ({"params": "50%"}, {"params": half}, attar.Budget(params="50%")):
        assert attar.prune(network(), EXAMPLE, budget).cut.after.params <= half


@pytest.mark.parametrize(
    "budget, words",
    [
        ("50%", r"budget='50%' does not say what is limited: give attar.Budget\(params='50%'\)"),
        (2000, "budget=2000 does not say what is limited"),
        (None, "budget=None does not say what is limited"),
        ({}, "the budget limits nothing"),
        ({"parms": 3}, "a budget has no 'parms', did you mean 'params'"),
        ({"params": "half"}, "params='half' cannot be read"),
    ],
)
def test_what_is_no_budget(budget: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attar.prune(network(), EXAMPLE, budget)


def test_limits_of_a_step_are_numbers() -> None:
    with pytest.raises(ValueError, match=r"give attar.Budget\(params='50%'\)"):
        Pruner(network(), EXAMPLE).step({"params": "50%"})
    with pytest.raises(ValueError, match="budget=2000 does not say"):
        Pruner(network(), EXAMPLE).step(2000)


class ByNumbers(nn.Module):
    """Its code looks at the numbers, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.runs = nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.fc(x) * int(x.sum().item())


@pytest.mark.parametrize(
    "model, example, words",
    [
        (network(), torch.randn(2, 5), "Sequential cannot be run with the example inputs: RuntimeError: mat1 and mat2"),
        (network(), (EXAMPLE, EXAMPLE), "Sequential cannot be run with the example inputs: TypeError"),
        (network(), torch.randn(0, 6), r"hold no sample, but tensors of \(0, 6\): give a batch of one"),
        (nn.LazyLinear(3), EXAMPLE, "parameters without a shape yet: run it once"),
        (ByNumbers(), EXAMPLE, "ByNumbers cannot be captured in eval mode"),
    ],
)
def test_networks_that_cannot_be_captured(
    model: nn.Module, example: object, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=words):
        attar.prune(model, example, attar.Budget(params="50%"))
    assert capfd.readouterr() == ("", "")
    assert getattr(model, "runs", 0) == 0 and model.training
