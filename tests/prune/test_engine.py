"""The engine on small residual networks: exact, to the budget, resumable, and harmless when it refuses."""

import json

import pytest
import torch
from torch import nn

from attar.models import build
from attar.prune import BudgetError, Context, ProofError, Pruner, count_macs, count_params, describe, proof, reshape
from attar.prune.importance import Parameters
from attar.prune.saved import saved_bytes
from attar.prune.structure import Group
from attar.recipe import Budget

EXAMPLE = torch.randn(2, 1, 28, 28)


def student() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("resnet20", widths=(16, 32, 64), in_channels=1, classes=10)


def random_kept(pruner: Pruner, seed: int) -> dict[int, torch.Tensor]:
    """Another share of each group, all units equally likely."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for index, group in enumerate(pruner.groups):
        if not group.protected:
            number = int(torch.randint(1, group.size + 1, (), generator=generator))
            kept[index] = torch.zeros(group.size, dtype=torch.bool)
            kept[index][torch.randperm(group.size, generator=generator)[:number]] = True
    return kept


@pytest.mark.parametrize("steps", [1, 30])
def test_even_cut_of_the_reference_network(steps: int) -> None:
    model = student()
    pruner = Pruner(model, EXAMPLE)
    for limits in Budget(params=100_000).schedule(pruner.cost().as_dict(), steps):
        cut = pruner.step(limits)
        assert cut.proof < 1e-10
    assert sorted(set(pruner.widths().values())) == [9, 19, 39]
    assert pruner.cost().params == count_params(model) == 99_603
    assert pruner.cost().macs == count_macs(model, EXAMPLE)
    assert model.training
    assert model.layer3[0].downsample[0].out_channels == 39 and model.fc.in_features == 39


def test_random_shares_are_exact_and_restored() -> None:
    model = student()
    pruner = Pruner(model, EXAMPLE)
    for seed in range(3):
        assert pruner.cut(random_kept(pruner, seed)).proof < 1e-10
    again = student()
    second = Pruner(again, EXAMPLE)
    second.restore(pruner.state())
    again.load_state_dict(model.state_dict())
    assert repr(again) == repr(model)
    assert second.widths() == pruner.widths() and second.cost() == pruner.cost()
    limit = {"params": int(pruner.cost().params * 0.8)}
    first, other = pruner.plan(limit), second.plan(limit)
    assert first.keys() == other.keys() and all(torch.equal(first[i], other[i]) for i in first)


def test_parameters_stay_the_same_objects_and_train() -> None:
    model = student()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    objects = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in objects.items()}
    cut = Pruner(model, EXAMPLE).step(Budget(params="50%"))
    for name, parameter in model.named_parameters():
        expected = before[name]
        for dim, index in cut.kept.get(name, []):
            expected = expected.index_select(dim, index)
        assert parameter is objects[name] and torch.equal(parameter, expected)
    assert any(parameter.shape != before[name].shape for name, parameter in objects.items())
    cut_weights = {name: parameter.detach().clone() for name, parameter in objects.items()}
    model(EXAMPLE).square().sum().backward()
    optimiser.step()
    assert all(not torch.equal(parameter, cut_weights[name]) for name, parameter in model.named_parameters())


def test_description_rebuilds_the_network_without_capture() -> None:
    model = student()
    Pruner(model, EXAMPLE, allocation="global").step(Budget(params=100_000))
    description = describe(model, student())
    small = reshape(student(), description)
    small.load_state_dict(model.state_dict())
    assert torch.equal(small.eval()(EXAMPLE), model.eval()(EXAMPLE))


class Table(nn.Module):
    """Adds numbers that are not saved, other ones for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("table", torch.arange(12.0).cos(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second((self.first(x) + self.table).relu())


def test_a_description_tells_what_is_left_of_buffers_that_are_not_saved() -> None:
    torch.manual_seed(0)
    model, inputs = Table(), torch.randn(2, 6)
    for share in ("75%", "70%"):  # the second cut is of what the first one left
        Pruner(model, inputs).step(Budget(params=share))
    description = json.loads(json.dumps(describe(model, Table())))
    assert description["left"]["table"] != [list(range(len(model.table)))]
    small = reshape(Table(), description)
    small.load_state_dict(model.state_dict())
    assert torch.equal(small(inputs), model(inputs))
    assert describe(small, Table()) == description


@pytest.mark.parametrize(
    "description",
    [
        {"tensors": {"nowhere.weight": [1]}},
        {"tensors": {"fc.weight": [11, 64]}},
        {"tensors": {"fc.weight": [10, 0]}},
        {"tensors": {"fc.weight": [10]}},
        {"attributes": {"fc": {"forward": 3}}},
        {"attributes": {"fc": {"in_features": "3"}}},
        {"attributes": {"fc": {"training": False}}},
        {"attributes": {"elsewhere": {"in_features": 3}}},
        {"code": {}},
    ],
)
def test_bad_descriptions_are_refused(description: dict) -> None:
    model = student()
    with pytest.raises(ValueError):
        reshape(model, description)
    assert count_params(model) == 272_186


def test_refusals_leave_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, EXAMPLE)
    with pytest.raises(BudgetError):
        pruner.step({"params": 10})
    monkeypatch.setattr(proof, "relative_error", lambda *_: 1.0)
    with pytest.raises(ProofError):
        pruner.step({"params": 100_000})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert pruner.cost().params == 272_186
    with pytest.raises(ValueError, match="protect"):
        Pruner(model, EXAMPLE, protect=["layer9.*"])


def test_protected_modules_keep_their_units() -> None:
    pruner = Pruner(student(), EXAMPLE, protect=["layer1.*"])
    pruner.step(Budget(params="50%"))
    assert pruner.model.layer1[0].conv1.weight.shape == (16, 16, 3, 3)
    assert pruner.model.layer3[0].conv1.weight.shape[0] < 64


@pytest.mark.parametrize("floors", [None, 10])
def test_a_share_is_planned_by_the_scores_of_the_groups_that_fall(floors: int | None) -> None:
    """All groups are asked before the first cut; after it those that are above their share, and the plan is the same."""
    asked: list[str] = []

    def by_number(parameters: Parameters, group: Group, context: Context) -> torch.Tensor:
        asked.append(group.name)
        return torch.arange(group.size, dtype=torch.float64)

    pruner = Pruner(student(), EXAMPLE, importance=by_number, floors=floors, prove=False)
    sizes = pruner.widths()
    pruner.cut(pruner.plan_share(0.99))
    assert sorted(asked) == sorted(sizes)
    for share in (0.97, 0.9, 0.5):
        asked.clear()
        before = pruner.widths()
        kept = pruner.plan_share(share)
        assert set(asked) == {name for name, size in before.items() if size > int(sizes[name] * share)}
        for index, group in enumerate(pruner.groups):
            if not group.protected:
                keep = min(group.size, max(int(sizes[group.name] * share), floors or 1))
                left = kept.get(index, torch.ones(group.size, dtype=torch.bool))
                assert left.tolist() == [False] * (group.size - keep) + [True] * keep
        pruner.cut(kept)
    assert not pruner.plan_share(0.97)


def test_a_cut_tells_the_bytes_of_the_type_that_the_network_has_then() -> None:
    model = student()
    pruner = Pruner(model, EXAMPLE)
    pruner.cut(pruner.plan_share(0.9))
    before = saved_bytes(model.double())
    cut = pruner.cut(pruner.plan_share(0.5))
    assert (cut.before.bytes, cut.after.bytes) == (before, saved_bytes(model))


def test_code_that_asks_whether_a_tensor_is_true_is_named() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            if x.sum() > 1e9:
                x = self.b(x)
            return self.head(x.mean((2, 3)))

    cut = Pruner(Asks(), torch.randn(2, 1, 8, 8)).step(Budget(params="60%"))
    assert any("asks whether a tensor is true" in note for note in cut.notes)


def test_a_network_changed_since_the_capture_is_not_cut() -> None:
    model = student()
    pruner = Pruner(model, EXAMPLE)
    model.fc = torch.nn.Linear(64, 500)
    for ask in (pruner.step, pruner.plan):
        with pytest.raises(ValueError, match=r"fc.weight was \(10, 64\) and is \(500, 64\); make a new Pruner"):
            ask({"params": 100_000})
    assert Pruner(model, EXAMPLE).step({"params": 100_000}).after.params == count_params(model) <= 100_000


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({99: torch.ones(16, dtype=torch.bool)}, "kept has 99: give numbers of groups, 0 to"),
        ({"conv1.weight": torch.ones(16, dtype=torch.bool)}, "kept has 'conv1.weight'"),
        ({0: torch.ones(15, dtype=torch.bool)}, r"is torch.bool of \(15,\): give a torch.bool tensor of \(16,\)"),
        ({0: torch.ones(16)}, "is torch.float32"),
        ({0: [True] * 16}, r"is \[True"),
    ],
)
def test_masks_of_another_network_are_refused(kept: dict, told: str) -> None:
    model = student()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=told):
        Pruner(model, EXAMPLE).cut(kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("limits", "told"),
    [({}, "limits nothing"), ({"params": None}, "params=None"), ({"macs": float("nan")}, "macs=nan")],
)
def test_limits_that_are_no_numbers_are_refused(limits: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pruner(student(), EXAMPLE).plan(limits)
