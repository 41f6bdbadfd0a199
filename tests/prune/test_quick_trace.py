"""A quick trace finds the units that `torch.export` does, and leaves alone what it cannot follow."""

import pytest
import torch
from torch import nn

from attar.models import build
from attar.prune import Pruner
from attar.prune.coupling import couple_model
from attar.prune.structure import same_units


class Folded(nn.Module):
    """Sizes that hold the batch, a list of parts, a constant of the code, noise in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 24), nn.Linear(8, 5)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.norm(self.first(images)).relu()
        batch, channels, high, wide = value.shape
        tokens = (
            value.reshape(batch, channels, 2, high // 2, wide).permute(0, 2, 3, 4, 1).reshape(batch * 2, -1, channels)
        )
        query, key, made = self.qkv(tokens).chunk(3, dim=-1)
        if self.training:
            query = query * torch.empty(query.shape[0], 1, 1).bernoulli_(0.9)
        tokens = torch.softmax(query @ key.transpose(1, 2) * torch.tensor([0.5]), -1) @ made
        return self.last(tokens.mean(1).view(batch, 2, channels).sum(1))


class ReadsNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.limit = nn.Parameter(torch.tensor(1.0))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(value).clamp(max=self.limit.item()))


class GoesBehind(ReadsNumbers):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.linear(value, self.first.weight.data, self.first.bias))


class HalvesTheBatch(ReadsNumbers):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = self.last(self.first(value))
        return value + value[: (value.shape[0] + 1) // 2].sum()


@pytest.mark.parametrize("name", ["folded", "resnet20"])
def test_the_units_of_an_export(name: str) -> None:
    model = Folded() if name == "folded" else build("resnet20", widths=(4, 8, 16), in_channels=3, classes=10)
    example = torch.randn(1, 3, 16, 16)
    quick, exported = couple_model(model, example), couple_model(model, example, quick=False)
    assert not quick.captured.evaluation.exported and exported.captured.evaluation.exported
    assert same_units(quick.structure, exported.structure)
    frees = [
        {
            (call.name.removesuffix("_copy"), call.shape, call.free)
            for walk in found.walks
            for call in walk.calls.values()
        }
        for found in (quick, exported)
    ]
    assert frees[0] == frees[1]


@pytest.mark.parametrize("network", [ReadsNumbers, HalvesTheBatch])
def test_what_it_cannot_follow_is_exported(network: type[nn.Module]) -> None:
    assert couple_model(network(), torch.randn(2, 4)).captured.evaluation.exported


def test_a_parameter_read_behind_its_back_is_refused() -> None:
    with pytest.raises(ValueError, match="GoesBehind cannot be captured in eval mode"):
        couple_model(GoesBehind(), torch.randn(2, 4))


def test_the_network_and_random_numbers_are_as_before() -> None:
    model = Folded().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objects = [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    state = torch.random.get_rng_state()
    assert not couple_model(model, torch.randn(1, 3, 16, 16, generator=torch.Generator())).captured.graphs[0].exported
    assert torch.equal(state, torch.random.get_rng_state()) and model.training
    assert objects == [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_cut_is_proved_on_a_quick_trace() -> None:
    model = Folded().eval()
    pruner = Pruner(model, torch.randn(1, 3, 16, 16))
    for share in (0.75, 0.5):
        assert pruner.cut(pruner.plan_share(share)).proof < 1e-10
    assert model(torch.randn(5, 3, 16, 16)).shape == (5, 5)
