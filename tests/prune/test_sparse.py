"""Penalties against gradients worked out by hand, and what they do to a network that is trained."""

import pytest
import torch
from torch import nn

from attar.prune.importance import score
from attar.prune.sparse import GroupLasso, GrowingPenalty, WithPenalty, lasso_weights
from attar.prune.structure import Group, Member, Structure


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.make, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.read = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.read(torch.relu(self.bn(self.make(x))))).flatten(1))


def structure_of():
    own, four = torch.arange(8), torch.arange(8).repeat_interleave(4)
    first = Group(
        "make.weight",
        8,
        (
            Member("make.weight", 0, own, True, "conv"),
            Member("make.bias", 0, own, True, "conv"),
            Member("bn.weight", 0, own, True, "batch_norm"),
            Member("read.weight", 1, own, False, "conv"),
        ),
    )
    second = Group(
        "read.weight", 8, (Member("read.weight", 0, own, True, "conv"), Member("head.weight", 1, four, False, "linear"))
    )
    outputs = Group("head.weight", 5, (Member("head.weight", 0, torch.arange(5), True, "linear"),), protected="output")
    return Structure((first, second, outputs), (), (), ())


@pytest.fixture
def net():
    torch.manual_seed(0)
    module = Net()
    with torch.no_grad():
        module.bn.weight.uniform_(0.5, 1.5)
    return module


def gradients(module, penalty):
    module.zero_grad()
    value = penalty(module)
    assert value.item() == 0  # the reported loss is the task's
    value.backward()
    return {name: p.grad for name, p in module.named_parameters()}


def slice_of(module, group, unit):
    """Names, dims and indices of the weights that the unit owns."""
    for m in structure_of().groups[group].members:
        if not m.tensor.endswith("bias"):
            for index in torch.nonzero(m.unit == unit)[:, 0].tolist():
                yield m.tensor, m.dim, index


def test_group_lasso_adds_gamma_times_the_weight(net):
    structure, parameters = structure_of(), dict(net.named_parameters())
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for group in (0, 1):
        norms = []
        for unit in range(8):
            parts = [parameters[n].select(d, i).square().sum().item() for n, d, i in slice_of(net, group, unit)]
            norms.append(sum(parts) ** 0.5)
        for unit in range(8):
            gamma = 2 ** (3 * (max(norms) - norms[unit]) / (max(norms) - min(norms)))
            for name, dim, index in slice_of(net, group, unit):
                own = parameters[name].detach().select(dim, index)
                expected[name].select(dim, index).add_(0.01 * gamma * own)
    found = gradients(net, GroupLasso(structure, strength=0.01, alpha=3))
    for name in ("make.weight", "bn.weight", "read.weight", "head.weight"):
        torch.testing.assert_close(found[name], expected[name])
    assert found["make.bias"] is None
    assert found["head.bias"] is None


def test_gamma_runs_from_one_to_two_to_the_alpha():
    gamma = lasso_weights(torch.tensor([1.0, 3.0, 2.0]), 4)
    assert gamma.tolist() == [16, 1, 4]
    assert lasso_weights(torch.ones(3), 4).tolist() == [1, 1, 1]


def test_growing_penalty_shrinks_only_the_units_that_go_and_grows(net):
    structure, parameters = structure_of(), dict(net.named_parameters())
    kept, steps = {0: torch.tensor([True] * 5 + [False] * 3)}, [0]
    penalty = GrowingPenalty(structure, kept, lambda: steps[-1], growth=0.1, every=10, ceiling=0.25)
    for step, rate in ((0, 0.1), (9, 0.1), (10, 0.2), (20, 0.25), (10_000, 0.25)):
        steps.append(step)
        found = gradients(net, penalty)
        assert penalty.rate == pytest.approx(rate)
        torch.testing.assert_close(found["make.weight"][5:], rate * parameters["make.weight"][5:])
        torch.testing.assert_close(found["read.weight"][:, 5:], rate * parameters["read.weight"][:, 5:])
        assert not found["make.weight"][:5].any()
        assert not found["read.weight"][:, :5].any()
        assert found["head.weight"] is None
    with pytest.raises(ValueError, match="every=0"):
        GrowingPenalty(structure, kept, lambda: 0, every=0)


def test_penalties_sparsify_a_network_in_training(net):
    """The gap between the least and the most important unit opens; without a penalty it does not."""
    torch.manual_seed(1)
    images, labels = torch.randn(32, 3, 6, 6), torch.randint(0, 5, (32,))
    structure, state = structure_of(), {name: value.clone() for name, value in net.state_dict().items()}

    def task(model, batch):
        logits = model(batch[0])
        return nn.functional.cross_entropy(logits, batch[1]), logits

    def spread(objective):
        net.load_state_dict(state)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(60):
            optimiser.zero_grad()
            loss, logits = objective(net, (images, labels))
            assert logits.shape == (32, 5)
            loss.backward()
            optimiser.step()
        scores = score(structure, dict(net.named_parameters()))[0]
        return (scores.min() / scores.max()).item(), scores

    plain, _ = spread(task)
    lasso, _ = spread(WithPenalty(task, GroupLasso(structure, strength=0.03)))
    assert lasso < 0.75 * plain
    kept = {0: torch.tensor([True] * 5 + [False] * 3)}
    _, scores = spread(WithPenalty(task, GrowingPenalty(structure, kept, lambda: 50, growth=0.1, every=1)))
    assert scores[5:].max() < 0.05 * scores[:5].min()
