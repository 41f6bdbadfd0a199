"""Every criterion against a plain loop over units; the group norm against torch-pruning too."""

import math

import pytest
import torch
from torch import nn

from attar.models import build
from attar.prune.coupling import couple_model
from attar.prune.gradients import collect_gradients
from attar.prune.importance import IMPORTANCES, Context, find_importance, score, unit_slices, wide
from attar.prune.structure import Group, Member, Structure

SIZE = 6


def member(tensor, dim, unit, kind="conv", produces=True):
    return Member(tensor, dim, torch.tensor(unit), produces, kind)


@pytest.fixture
def network():
    """Six units: made by a convolution, scaled by a norm, read by part of a convolution and by a linear layer."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    parameters = {
        "make.weight": draw(SIZE, 3, 3, 3),
        "make.bias": 100 * draw(SIZE),
        "bn.weight": draw(SIZE),
        "bn.bias": 100 * draw(SIZE),
        "bn.running_mean": 100 * draw(SIZE),
        "bn.num_batches_tracked": torch.tensor(7),
        "read.weight": draw(5, 10, 3, 3),
        "head.weight": draw(4, 3 * SIZE + 1),
        "scale": 100 * draw(SIZE, 1, 1),
    }
    own = list(range(SIZE))
    group = Group(
        "make.weight",
        SIZE,
        (
            member("make.weight", 0, own),
            member("make.bias", 0, own),
            member("bn.weight", 0, own, "batch_norm"),
            member("bn.bias", 0, own, "batch_norm"),
            member("bn.running_mean", 0, own, "batch_norm"),
            member("scale", 0, own, "pointwise"),
            member("read.weight", 1, [-1, -1, 0, 1, 2, -1, 3, 4, 5, -1], produces=False),
            # Units own different numbers of inputs of the head: 4, 3, 3, 3, 3, 2.
            member("head.weight", 1, [i for i in own for _ in range(3)][:-1] + [0, -1], "linear", produces=False),
        ),
    )
    return Structure((group,), (), (), ()), parameters


def plain_slices(structure, parameters, kinds):
    """For each weight, the list of each unit's elements."""
    group = structure.groups[0]
    for m in group.members:
        if m.kind in kinds and m.tensor.endswith(".weight"):
            tensor = parameters[m.tensor]
            yield (
                m.tensor,
                [
                    [tensor.select(m.dim, i).flatten() for i, u in enumerate(m.unit.tolist()) if u == unit]
                    for unit in range(group.size)
                ],
            )


def plain(structure, parameters, of, kinds=("conv", "linear", "batch_norm", "norm")):
    """Mean over weights of the sum over a unit's elements of `of(name, elements...)`, not normalised."""
    totals, count = [0.0] * SIZE, 0
    for _, slices in plain_slices(structure, parameters, kinds):
        count += 1
        for unit, parts in enumerate(slices):
            totals[unit] += sum(of(float(x)) for part in parts for x in part)
    return [total / count for total in totals]


def relative(values):
    mean = sum(values) / len(values)
    return [value / mean for value in values]


def check(found, expected):
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_scores_follow_weights_that_changed(network):
    structure, parameters = network
    context = Context()
    before = score(structure, parameters, context=context)[0]
    parameters["make.weight"][0] *= 10
    assert score(structure, parameters, context=context)[0][0] > before[0]


def test_group_norms(network):
    structure, parameters = network
    check(score(structure, parameters)[0], relative(plain(structure, parameters, lambda x: x * x)))
    check(score(structure, parameters, "group_norm_l1")[0], relative(plain(structure, parameters, abs)))


def test_bn_scale(network):
    structure, parameters = network
    expected = relative([abs(float(x)) for x in parameters["bn.weight"]])
    check(score(structure, parameters, "bn_scale")[0], expected)
    bare = Structure((Group("make.weight", SIZE, structure.groups[0].members[:2]),), (), (), ())
    with pytest.raises(ValueError, match=r"make\.weight; choose another importance"):
        score(bare, parameters, "bn_scale")


def test_fpgm(network):
    structure, parameters = network
    totals, count = [0.0] * SIZE, 0
    for _, slices in plain_slices(structure, parameters, ("conv", "linear")):
        count += 1
        rows = [[float(x) for part in parts for x in part] for parts in slices]
        longest = max(len(row) for row in rows)
        rows = [row + [0.0] * (longest - len(row)) for row in rows]
        for i, one in enumerate(rows):
            totals[i] += sum(math.dist(one, other) for other in rows)
    check(score(structure, parameters, "fpgm")[0], relative([total / count for total in totals]))


def test_fpgm_calls_the_duplicate_redundant():
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    weight[3] = weight[1:3].mean(0)  # stands between two others
    group = Group("w", 5, (member("w", 0, list(range(5))),))
    scores = score(Structure((group,), (), (), ()), {"w": weight}, "fpgm")[0]
    assert int(scores.argmin()) == 3


def test_lamp(network):
    structure, parameters = network
    norm = plain(structure, parameters, lambda x: x * x)
    expected = [own / sum(other for other in norm if other >= own) for own in norm]
    check(score(structure, parameters, "lamp")[0], expected)
    assert score(structure, parameters, "lamp")[0].max() == 1  # the strongest unit of every group


def test_random_is_a_function_of_seed_and_group(network):
    structure, parameters = network
    one = score(structure, parameters, "random", Context(seed=1))[0]
    assert torch.equal(one, score(structure, parameters, "random", Context(seed=1))[0])
    assert not torch.equal(one, score(structure, parameters, "random", Context(seed=2))[0])
    other = Structure((Group("another", SIZE, ()),), (), (), ())
    assert not torch.equal(one, score(other, parameters, "random", Context(seed=1))[0])
    many = score(Structure((Group("many", 20_000, ()),), (), (), ()), {}, "random")[0]
    assert many.mean().item() == pytest.approx(1, abs=0.02)
    assert many.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.02)
    # Pinned, so that a plan made on one machine is the plan of every other.
    pinned = score(Structure((Group("g", 3, ()),), (), (), ()), {}, "random", Context(seed=7))[0]
    assert pinned.tolist() == [1.2438100608268372, 0.7156416374955851, 0.25128905702696047]


def gradients_of(parameters):
    generator = torch.Generator().manual_seed(9)
    return {n: torch.randn(p.shape, generator=generator) for n, p in parameters.items() if p.is_floating_point()}


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_criteria_of_the_loss(network, name):
    structure, parameters = network
    given = gradients_of(parameters)
    given = {n: g.square() for n, g in given.items()} if name == "fisher" else given
    totals, count = [0.0] * SIZE, 0
    kinds = ("conv", "linear", "batch_norm")
    pairs = zip(plain_slices(structure, parameters, kinds), plain_slices(structure, given, kinds))
    for (_, slices), (_, gradient_slices) in pairs:
        count += 1
        for unit in range(SIZE):
            for w, g in zip(slices[unit], gradient_slices[unit]):
                if name == "taylor":
                    totals[unit] += sum(abs(float(x) * float(y)) for x, y in zip(w, g))
                else:
                    totals[unit] += sum(float(x) ** 2 * float(y) for x, y in zip(w, g))
    context = Context(gradients=given) if name == "taylor" else Context(squares=given)
    check(score(structure, parameters, name, context)[0], relative([total / count for total in totals]))
    with pytest.raises(ValueError, match=r"needs the gradient of make\.weight"):
        score(structure, parameters, name)


def test_gradients_are_collected_and_nothing_else_changes():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(12, 2))
    module[1].eval()  # a frozen norm stays frozen
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches = [(torch.randn(4, 1, 4, 4), torch.randint(0, 2, (4,))) for _ in range(3)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    context = collect_gradients(module, batches, loss)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [part.training for part in module] == [True, False, True, True, True]
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert module[4].weight.grad is None
    module.eval()
    expected = []
    for batch in batches:
        module.zero_grad()
        loss(module, batch).backward()
        expected.append(module[4].weight.grad.clone())
    stacked = torch.stack(expected)
    torch.testing.assert_close(context.gradients["4.weight"], stacked.mean(0))
    torch.testing.assert_close(context.squares["4.weight"], stacked.square().mean(0))
    with pytest.raises(ValueError, match="at least one batch"):
        collect_gradients(module, [], loss)
    with pytest.raises(ValueError, match="finite scalar"):
        collect_gradients(module, batches, lambda model, batch: model(batch[0]))


def test_frozen_layers_have_gradients_and_stay_frozen():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    batches = [torch.randn(2, 4) for _ in range(3)]

    def loss(model, batch):
        return model(batch).square().mean()

    wanted = collect_gradients(module, batches, loss).gradients
    module[0].requires_grad_(False)
    found = collect_gradients(module, batches, loss).gradients
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(ValueError, match="finite scalar"):
        collect_gradients(module, batches, lambda model, batch: model(batch))
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("name", ["group_norm", "lamp", "taylor", "fisher"])
@pytest.mark.parametrize("size", [1e-5, 1e3])
def test_half_precision_neither_underflows_nor_overflows(network, name, size):
    """Squares and products of float16 leave its range where the weights themselves are well within."""
    structure, parameters = network
    small = {key: (size * value).half() if value.is_floating_point() else value for key, value in parameters.items()}
    full = {key: value.double() for key, value in small.items()}
    found = score(structure, small, name, Context(small, small))[0]
    assert torch.equal(found, score(structure, full, name, Context(full, full))[0])
    assert found.unique().numel() == SIZE


def test_float32_is_read_as_it_is(network):
    _, parameters = network
    assert wide(parameters["make.weight"]) is parameters["make.weight"]


def test_gradients_of_half_precision_are_summed_in_float32():
    torch.manual_seed(0)
    module = nn.Linear(4, 2).bfloat16()
    batches = [torch.randn(1, 4).bfloat16() for _ in range(2)]

    def loss(model, batch):
        return model(batch).float().square().mean()

    few, many = collect_gradients(module, batches, loss), collect_gradients(module, batches * 400, loss)
    assert many.squares["weight"].dtype == many.gradients["weight"].dtype == torch.float32
    torch.testing.assert_close(many.squares["weight"], few.squares["weight"])
    torch.testing.assert_close(many.gradients["weight"], few.gradients["weight"])


def test_slices_line_up_whatever_the_order_of_the_indices():
    tensor = torch.arange(12.0).reshape(2, 6)
    m = member("w", 1, [2, 0, -1, 2, 1, 0])
    assert unit_slices(tensor, m, 3).tolist() == [[1, 7, 5, 11], [4, 10, 0, 0], [0, 6, 3, 9]]


def test_user_functions_are_welcome_and_checked(network):
    structure, parameters = network
    favour_last = score(structure, parameters, lambda parameters, group, context: torch.arange(group.size))
    assert favour_last[0].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        score(structure, parameters, lambda parameters, group, context: torch.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        score(structure, parameters, lambda parameters, group, context: torch.full((6,), float("nan")))
    with pytest.raises(ValueError, match="did you mean 'group_norm'"):
        find_importance("group_nrm")


def test_protected_groups_are_not_scored(network):
    structure, parameters = network
    group = Group("make.weight", SIZE, structure.groups[0].members, protected="output")
    assert score(Structure((group,), (), (), ()), parameters) == {}


def test_groups_of_bare_parameters_are_ranked_by_them():
    group = Group("token", 3, (member("token", 2, [0, 1, 2], "pointwise"),))
    found = score(Structure((group,), (), (), ()), {"token": torch.tensor([[[1.0, 2.0, 3.0]]])})
    check(found[0], relative([1.0, 4.0, 9.0]))


@pytest.mark.parametrize("name", [n for n in IMPORTANCES if n not in ("taylor", "fisher", "random")])
def test_dead_units_score_least_and_dead_groups_do_not_divide_by_zero(network, name):
    structure, parameters = network
    one_dead = {n: p.clone() for n, p in parameters.items()}
    for part in structure.groups[0].members:
        one_dead[part.tensor].movedim(part.dim, 0)[part.unit == 1] = 0
    assert score(structure, one_dead, name)[0].argmin() == 1
    zero = {n: torch.zeros_like(p) for n, p in parameters.items()}
    assert torch.isfinite(score(structure, zero, name)[0]).all()


@pytest.mark.parametrize(("name", "groups"), [("resnet20", 12), ("resnet50", 37)])
def test_group_norm_agrees_with_torch_pruning_on_resnets(name, groups):
    torch_pruning = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    example, module = torch.randn(1, 1, 28, 28), build(name, in_channels=1, classes=10)
    with torch.no_grad():
        for parameter in module.parameters():  # norms start with equal weights, which would hide whether they count
            parameter.add_(0.1 * torch.randn_like(parameter))
    structure = couple_model(module, (example,)).structure
    ours = score(structure, dict(module.named_parameters()))
    names = {part: part_name for part_name, part in module.named_modules()}
    module.eval()
    graph = torch_pruning.DependencyGraph().build_dependency(module, example)
    compared = set()
    for theirs in graph.get_all_groups(ignored_layers=[part for part in names if isinstance(part, nn.Linear)]):
        root = f"{names[theirs[0].dep.layer]}.weight"
        index, own = next(
            (i, m)
            for i, g in enumerate(structure.groups)
            for m in g.members
            if (m.tensor, m.dim, m.produces) == (root, 0, True)
        )
        expected = torch_pruning.importance.GroupMagnitudeImportance()(theirs).double()
        torch.testing.assert_close(ours[index][own.unit], expected, rtol=1e-6, atol=0)
        compared.add(index)
    assert len(compared) == len(ours) == groups
