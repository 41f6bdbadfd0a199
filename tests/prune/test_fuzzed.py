"""Small networks that a fuzzer found to be cut wrongly, not at all, or over their budget."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import attar
from attar.prune import Pruner, collect_gradients


class Sliced(nn.Module):
    """The middle of what `a` makes is read once more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g, self.h = nn.Linear(3, 12), nn.Linear(12, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.g(x) + self.h(x[:, 4:8])


@pytest.mark.parametrize("prove", [True, False])
def test_units_elsewhere_shift_what_a_part_reads(prove: bool) -> None:
    torch.manual_seed(0)
    pruner = Pruner(Sliced(), torch.randn(2, 3), prove=prove)
    group = [group.name for group in pruner.groups].index("a.weight")
    first, second = torch.ones(12, dtype=torch.bool), torch.ones(11, dtype=torch.bool)
    first[0] = second[4] = False  # the second is unit 5 as captured, the second of those that `h` reads
    pruner.cut({group: first})
    member = next(member for member in pruner.groups[group].members if member.tensor == "h.weight")
    assert member.unit.tolist() == [3, 4, 5, 6]
    assert pruner.cut({group: second}).kept["h.weight"][0][1].tolist() == [0, 2, 3]


def test_global_steps_go_on_where_halves_are_read_apart() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.g, self.h = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return self.g(x[:, :4]) + self.h(x[:, 4:])

    torch.manual_seed(0)
    model = Halves()
    with torch.no_grad():
        model.a.weight[0] *= 0.01
        model.g.weight[:, 0] *= 0.01
    pruner = Pruner(model, torch.randn(2, 3), allocation="global")
    assert pruner.step({"params": 46}).proof < 1e-10
    assert pruner.step({"params": 40}).after.params <= 40


class Partial(nn.Module):
    """FasterNet's partial convolution (Chen et al. 2023): two of eight channels are convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.p, self.f = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.f(torch.cat([self.p(h[:, :2]), h[:, 2:]], 1).mean((2, 3)))


@pytest.mark.parametrize("allocation", ["even", "global"])
@pytest.mark.parametrize("seed", range(4))
def test_no_plan_leaves_a_layer_nothing(allocation: str, seed: int) -> None:
    torch.manual_seed(seed)
    pruner = Pruner(Partial(), torch.randn(2, 3, 8, 8), allocation=allocation)
    least, whole = pruner.minimum().params, pruner.cost().params
    for share in (0.15, 0.0):
        assert pruner.step({"params": int(least + (whole - least) * share)}).proof < 1e-10


def test_what_minimum_promises_can_be_reached() -> None:
    """The most important unit is the dearest, too."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.f = nn.Linear(2, 8), nn.Linear(12, 30)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.a(x)
            return self.f(torch.cat([h, h[:, :4]], 1))

    torch.manual_seed(0)
    model = Twice()
    with torch.no_grad():
        model.a.weight[0] *= 9
        model.f.weight[:, 0] *= 9
    pruner = Pruner(model, torch.randn(2, 2))
    least = pruner.minimum(attar.Budget(params=63))
    assert least.params == 63 and pruner.step({"params": 63}).after == least


class Named(nn.Module):
    """Arguments called as functions of Python, and a graph that has to run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, input: torch.Tensor, len: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(input).view(-1, 2, 4).flatten(1)) * len


class Identity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h @ torch.eye(h.shape[1]))


class Gated(nn.Module):
    """The gate of a Conformer's convolution (Gulati et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(4, 24, 1), nn.BatchNorm1d(24), nn.Conv1d(12, 6, 1)
        self.deep = nn.Conv1d(12, 12, 3, padding=1, groups=12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.deep(functional.glu(self.norm(self.a(x)), 1))).mean(2)


class Loop(nn.Module):
    """Holds itself in what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 3)
        self.tree: dict = {"children": []}
        self.tree["children"].append({"parent": self.tree})
        self.settings = self.__dict__

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu())


VECTORS = (torch.randn(2, 7),)


@pytest.mark.parametrize(
    ("make", "example"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 8), nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 3)), VECTORS),
        (
            lambda: nn.Sequential(nn.Linear(7, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(1, 2), nn.Linear(8, 3)),
            VECTORS,
        ),
        (Named, (*VECTORS, torch.ones(2, 1))),
        (Identity, VECTORS),
        (Gated, (torch.randn(2, 4, 9),)),
        (Loop, VECTORS),
    ],
    ids=["rms norm with eps", "input of a sequence", "named", "identity", "glu", "loop"],
)
def test_these_are_cut(make, example) -> None:
    torch.manual_seed(0)
    pruner = Pruner(make(), example)
    cut = pruner.step({"params": int(pruner.cost().params * 0.7)})
    assert cut.proof < 1e-10 and cut.removed
    pruner.model(*example)


def test_gradients_of_a_network_that_writes_to_a_frozen_parameter() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(7, 8), nn.Linear(8, 3)
            self.centre = nn.Parameter(torch.zeros(8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            self.centre.mul_(0.9).add_(0.1 * y.detach().mean(0))
            return self.b(y - self.centre)

    torch.manual_seed(0)
    model = Centred()
    model.b.requires_grad_(False)
    found = collect_gradients(model, [torch.randn(2, 7)], lambda m, x: m(x).square().mean()).gradients
    assert all(bool(found[name].any()) for name in ("a.weight", "b.weight")) and not bool(found["centre"].any())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, False, False]
