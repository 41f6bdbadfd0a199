"""Awkward networks cut at random shares: against the original with zeroed weights, run by its own code, in float64."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from awkward_networks import EXACT, MIXING, HardCodedSizes, HeadsByHand, HeadsFromInput, Net, SameWidths, example
from torch import nn
from torch.utils._pytree import tree_leaves

from attar.prune import Cut, ProofError, Pruner, count_params, describe, reshape
from attar.prune.modules import named_tensors


def shares(pruner: Pruner, seed: int) -> dict[int, torch.Tensor]:
    """A random share of every group that may be cut, the same number in every row."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for index, group in enumerate(pruner.groups):
        if group.protected:
            continue
        row = torch.zeros(group.size, dtype=torch.int64) if group.row is None else group.row
        length = int((row == row[0]).sum())
        keep = int(torch.randint(1, length + 1, (), generator=generator))
        kept[index] = torch.zeros(group.size, dtype=torch.bool)
        for number in row.unique().tolist():
            units = torch.nonzero(row == number)[:, 0]
            kept[index][units[torch.randperm(length, generator=generator)[:keep]]] = True
    return kept


def answers(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([leaf.flatten() for leaf in tree_leaves(model(*inputs))])


def jitter(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.3)


def assert_equals_zeroed(
    model: nn.Module, masked: nn.Module, cut: Cut, inputs: tuple[torch.Tensor, ...], training: bool = False
) -> None:
    """The cut model answers as the original, in float64, does with the removed weights set to zero (done in place)."""
    with torch.no_grad():
        for name, cuts in cut.kept.items():
            for dim, index in cuts:
                gone = torch.ones(named_tensors(masked)[name].shape[dim], dtype=torch.bool)
                gone[index] = False
                named_tensors(masked)[name].index_fill_(dim, torch.nonzero(gone)[:, 0], 0)
    doubles = tuple(x.double() for x in inputs)
    small = copy.deepcopy(model).double().train(training)
    torch.testing.assert_close(answers(small, doubles), answers(masked, doubles), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", EXACT, ids=lambda build: build.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_cut_equals_the_original_with_zeroed_weights(build: type[Net], seed: int) -> None:
    torch.manual_seed(seed)
    model = build()
    jitter(model)
    inputs = example(model)
    masked = copy.deepcopy(model).double().eval()
    pruner = Pruner(model, inputs)
    whole = count_params(model)
    cut = pruner.cut(shares(pruner, seed))
    assert cut.proof < 1e-10 and cut.removed and count_params(model) < whole
    assert pruner.cost().params == count_params(model)
    assert_equals_zeroed(model, masked, cut, inputs)
    model.train()
    sum(leaf.square().sum() for leaf in tree_leaves(model(*inputs))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters()) or not model.training


@pytest.mark.parametrize("build", MIXING, ids=lambda build: build.__name__)
def test_mixed_units_are_cut_step_by_step(build: type[Net]) -> None:
    torch.manual_seed(0)
    model = build()
    inputs = example(model)
    pruner = Pruner(model, inputs)
    for seed in range(3):
        assert pruner.cut(shares(pruner, seed)).proof < 1e-10
    again = build()
    second = Pruner(again, inputs)
    second.restore(pruner.state())
    again.load_state_dict(model.state_dict())
    assert torch.equal(answers(again.eval(), inputs), answers(model.eval(), inputs))


def test_heads_keep_their_number_and_their_scale() -> None:
    model = HeadsByHand()
    pruner = Pruner(model, example(model))
    pruner.step({"params": int(pruner.cost().params * 0.6)})
    assert pruner.mode == "module" and model.heads == 4 and 1 <= model.width < 6
    assert model.qkv.out_features == 3 * 4 * model.width


def test_code_with_sizes_written_in_runs_as_its_graph() -> None:
    model = HardCodedSizes()
    inputs = example(model)
    pruner = Pruner(model, inputs)
    pruner.step({"params": int(pruner.cost().params * 0.7)})
    assert pruner.mode == "graph"
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.bias.add_(1)
    torch.testing.assert_close(answers(twin.eval(), inputs), answers(model.eval(), inputs) + 1)
    assert model(torch.randn(5, 3, 8, 8)).shape == (5, 5)
    description = json.loads(json.dumps(describe(model, HardCodedSizes())))
    loaded = reshape(HardCodedSizes(), description)
    loaded.load_state_dict(model.state_dict())
    for mode in (True, False):
        assert torch.equal(answers(loaded.train(mode), inputs), answers(model.train(mode), inputs))


def test_only_the_modules_that_cannot_follow_run_their_graph() -> None:
    torch.manual_seed(0)
    model = HeadsFromInput()
    inputs = example(model)
    seen: list[str] = []
    model.block.register_forward_hook(lambda module, inputs, output: seen.append("block"))
    pruner = Pruner(model, inputs)
    for seed in range(2):
        assert pruner.cut(shares(pruner, seed)).proof < 1e-10
    assert pruner.mode == "module" and pruner.parts == ("one", "two") and "shape" in pruner.why_graph
    assert "forward" not in vars(model)
    seen.clear()
    assert model(torch.randn(5, 3, 8, 8)).shape == (5, 5) and seen == ["block"]
    loaded = reshape(HeadsFromInput(), json.loads(json.dumps(describe(model, HeadsFromInput()))))
    loaded.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.bias.add_(1)
    torch.testing.assert_close(answers(twin.eval(), inputs), answers(model.eval(), inputs) + 1)
    for mode in (True, False):
        torch.manual_seed(1)
        expected = answers(model.train(mode), inputs)
        torch.manual_seed(1)
        assert torch.equal(answers(loaded.train(mode), inputs), expected)


class ManyNumbersAlike(nn.Module):
    """A width, a limit, a number that no operation sees, and sizes that cannot be cut: all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.width = self.limit = self.classes = self.places = 16
        self.half, self.shortest = 8, 8
        self.into, self.one, self.out = nn.Linear(12, 16), nn.Linear(8, 8), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.into(x[:, : self.limit].narrow(1, 0, self.shortest)))
        x = torch.cat([x[..., : self.half], self.one(x[..., self.half :])], -1).reshape(len(x), -1, self.width)
        return F.interpolate(self.out(x).transpose(1, 2), size=self.places)


def test_numbers_are_mended_only_where_they_were_sizes_that_changed() -> None:
    torch.manual_seed(0)
    model = ManyNumbersAlike()
    pruner = Pruner(model, torch.randn(2, 9, 12))
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10 and not pruner.why_graph
    assert (model.limit, model.classes, model.places, model.shortest) == (16, 16, 16, 8)
    assert model.width == model.out.in_features < 16
    assert model.half == model.into.out_features - model.one.in_features < 8


class NormsWithoutWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(16, elementwise_affine=False), nn.GroupNorm(16, 16, affine=False)
        self.three, self.four = nn.InstanceNorm2d(16), nn.GroupNorm(4, 16, affine=False)
        self.last = nn.Conv2d(16, 16, 1)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        x = self.one(x.movedim(1, -1)).movedim(-1, 1)
        return self.four(self.last(F.relu(self.three(self.two(x) * image.mean((1, 2, 3), keepdim=True)))))


def test_norms_without_weights_know_their_channels() -> None:
    torch.manual_seed(0)
    model = NormsWithoutWeights()
    pruner = Pruner(model, example(model))
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10 and pruner.mode == "module" and not pruner.why_graph
    width = model.last.in_channels
    assert model.one.normalized_shape == (width,) and model.three.num_features == width < 16
    assert (model.two.num_groups, model.two.num_channels) == (width, width)
    assert (model.four.num_groups, model.four.num_channels) == (4, model.last.out_channels)


class HardCodedConstant(HardCodedSizes):
    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return super().awkward(x, image) * torch.tensor([0.1 * number for number in range(8)])


@pytest.mark.parametrize("build", [HardCodedSizes, HardCodedConstant, HeadsFromInput])
def test_a_network_that_runs_a_graph_can_be_cut_anew(build: type[Net]) -> None:
    torch.manual_seed(0)
    model = build()
    inputs = example(model)
    for _ in range(2):
        pruner = Pruner(model, inputs)
        for seed in range(2):
            assert pruner.cut(shares(pruner, seed)).proof < 1e-10
        assert pruner.mode == "graph" or pruner.parts == ("one", "two")
    loaded = reshape(build(), json.loads(json.dumps(describe(model, build()))))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(answers(loaded.eval(), inputs), answers(model.eval(), inputs))


def test_numbers_that_were_the_same_are_told_apart_by_their_use() -> None:
    torch.manual_seed(0)
    model = SameWidths()
    inputs = example(model)
    pruner = Pruner(model, inputs)
    kept = shares(pruner, 1)
    assert pruner.cut(kept).proof < 1e-10
    assert pruner.mode == "module" and pruner.parts == () and model.block.key_width != model.block.value_width
    loaded = reshape(SameWidths(), json.loads(json.dumps(describe(model, SameWidths()))))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(answers(loaded.eval(), inputs), answers(model.eval(), inputs))


class WidthInTraining(Net):
    """Computes something from the number of channels, in train mode alone."""

    def __init__(self, dropout: float, noise: float) -> None:
        super().__init__()
        self.dropout, self.noise, self.block = dropout, noise, nn.Conv2d(16, 16, 3, padding=1)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        x = F.dropout(F.relu(self.block(x)), self.dropout, self.training)
        if self.training and self.noise:
            return x + self.noise * torch.randn_like(x)
        return x * x.shape[1] ** -0.5 if self.training else x


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_train_mode_computes_is_proved_too(dropout: float) -> None:
    torch.manual_seed(0)
    model = WidthInTraining(dropout, 0.0)
    inputs = example(model)
    masked = copy.deepcopy(model).double().train()
    statistics = model.stem[1].running_mean.clone()
    pruner = Pruner(model, inputs)
    cut = pruner.cut(shares(pruner, 1))
    assert pruner.mode == "graph" and "differs" in pruner.why_graph  # its own code would divide by another width
    assert torch.equal(model.stem[1].running_mean, statistics[dict(cut.kept["stem.1.running_mean"])[0]])
    if not dropout:
        assert_equals_zeroed(model, masked, cut, inputs, training=True)


def test_a_train_mode_that_draws_numbers_is_run_alone() -> None:
    torch.manual_seed(0)
    model = WidthInTraining(0.3, 0.1)
    pruner = Pruner(model, example(model))
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10 and pruner.mode == "module"


@pytest.mark.parametrize(
    "change",
    [
        {"target": "os.system"},
        {"target": "aten.from_file.default"},
        {"target": "aten.relu.nothing"},
        {"op": "call_method"},
        {"name": "x; import os"},
        {"kwargs": {"dict": {"x=1); print(": 1}}},
        {"args": [{"node": "nowhere"}]},
    ],
)
def test_described_graphs_name_nothing_but_operations(change: dict) -> None:
    model = HardCodedSizes()
    pruner = Pruner(model, example(model))
    pruner.step({"params": int(pruner.cost().params * 0.7)})
    description = describe(model, HardCodedSizes())
    nodes = description["graphs"][""]["graphs"][0]["nodes"]
    next(node for node in nodes if node["op"] == "call_function").update(change)
    with pytest.raises(ValueError):
        reshape(HardCodedSizes(), description)


def test_unknown_operations_fix_what_they_read_and_are_named() -> None:
    class Spectrum(Net):
        def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x.flatten(2))[..., None, None].expand(-1, -1, 2, 2)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Spectrum(8), Net(16)
            self.two.awkward = lambda x, image: x  # type: ignore[method-assign]

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            t = self.one.stem(image)
            return self.two(image) + torch.linalg.svdvals(t.flatten(2)).mean()

    model = Both()
    pruner = Pruner(model, torch.randn(2, 3, 8, 8))
    fixed = {group.name: group.protected for group in pruner.groups if group.protected}
    assert "svd" in fixed["one.stem.0.weight"]
    assert any("svd" in report for report in pruner.reports)
    assert "two.stem.0.weight" in pruner.widths()


def test_strict_policy_keeps_units_that_a_norm_mixes() -> None:
    torch.manual_seed(0)
    from awkward_networks import TokenMixer

    model = TokenMixer()
    assert "stem.0.weight" in Pruner(model, example(model)).widths()
    assert "stem.0.weight" not in Pruner(model, example(model), policy="strict").widths()


def test_a_cut_that_leaves_nothing_of_a_layer_is_refused_by_name() -> None:
    from harder_networks import HARDER

    model = HARDER["uneven_use"]()
    pruner = Pruner(model, example(model))
    kept = shares(pruner, 1)
    number = next(i for i, group in enumerate(pruner.groups) if group.name == "grouped.0.weight")
    row = pruner.groups[number].row
    assert row is not None
    kept[number] = torch.zeros(24, dtype=torch.bool)
    for one in row.unique().tolist():
        kept[number][torch.nonzero(row == one)[-1, 0]] = True
    with pytest.raises(ProofError, match=r"b\.weight"):
        pruner.cut(kept)
    assert count_params(model) == pruner.cost().params
