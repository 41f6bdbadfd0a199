"""Multiply-accumulates of one sample: the engine says what the artifact counts, whatever the example's batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from attar.artifact.replay import count_macs as counted
from attar.prune import Pruner, count_macs


class LowRank(nn.Module):
    """A weight that is the product of two: computed once, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 24), nn.Linear(16, 4)
        self.up, self.down = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(8, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(functional.linear(self.first(x), self.up @ self.down).relu())


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_weights_made_of_weights_count_once(batch: int) -> None:
    model, wanted = LowRank(), 12 * 24 + 16 * 8 * 24 + 24 * 16 + 16 * 4
    assert count_macs(model, torch.randn(batch, 12)) == counted(model, torch.randn(1, 12)) == wanted
    pruner = Pruner(model, torch.randn(batch, 12))
    cut = pruner.step({"macs": wanted // 2})
    assert cut.after.macs == counted(model, torch.randn(1, 12)) <= wanted // 2
