"""Groups whose units cost differently, and tensors that read a part of a group: what is cheap or needed stays in reach."""

import pytest
import torch
from torch import nn

import attar
from attar.prune import BudgetError, Pruner


class Again(nn.Module):
    """The first `many` of sixteen channels are read `times` more, so that they cost more than the others."""

    def __init__(self, many: int, times: int) -> None:
        super().__init__()
        self.many, self.times = many, times
        self.stem, self.mid, self.fc = nn.Conv2d(3, 16, 1), nn.Conv2d(16 + many * times, 16, 1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.fc(self.mid(torch.cat([x] + [x[:, : self.many]] * self.times, 1)).relu().mean((2, 3)))


def made(many: int, times: int) -> Pruner:
    """With the dear channels the important ones, and the later half of `mid` too."""
    torch.manual_seed(0)
    model = Again(many, times)
    with torch.no_grad():
        model.stem.weight[:many] *= 10
        for tensor in (model.mid.weight[8:], model.mid.bias[8:], model.fc.weight[:, 8:]):
            tensor *= 10
    return Pruner(model, torch.zeros(2, 3, 8, 8), allocation="global")


def test_the_smallest_network_stays_in_reach_of_later_steps():
    pruner = made(8, 1)
    least = pruner.minimum().params
    with pytest.raises(BudgetError):  # importance alone leaves dear channels only
        for limit in (200, 100, 50, least):
            pruner.step({"params": limit})
    pruner = made(8, 1)
    for limit in (200, 100, 50, least):
        pruner.cut(pruner.plan({"params": limit}, later={"params": least}))
        assert pruner.cost().params <= limit and pruner.minimum().params == least
    assert pruner.cost().params == least


def test_later_bytes_are_those_of_the_file():
    pruner = made(8, 1)
    pruner.model.half()  # since the capture: a file of half the bytes that are counted
    last = pruner.minimum().bytes - 10  # too few for float32
    by_importance = pruner.plan({"bytes": 1100})
    led_on = pruner.plan({"bytes": 1100}, later={"bytes": last})
    assert by_importance.keys() == led_on.keys()
    assert all(torch.equal(by_importance[index], mask) for index, mask in led_on.items())
    for limit in (1100, last):
        pruner.cut(pruner.plan({"bytes": limit}, later={"bytes": last}))
        assert pruner.cost().bytes <= limit


def test_where_only_cheap_units_fit_importance_chooses_among_them_and_elsewhere():
    pruner = made(4, 36)
    names = {index: group.name for index, group in enumerate(pruner.groups)}
    plan = {names[index]: mask for index, mask in pruner.plan({"params": 40}).items()}
    assert not plan["stem.weight"][:4].any() and plan["mid.weight"][8:].any()
    assert not plan["mid.weight"][:8].any()  # all of these cost the same, so that the important ones stay


def test_cheap_units_are_found_among_equal_scores_too():
    pruner = made(4, 36)
    with torch.no_grad():
        for parameter in pruner.model.parameters():
            parameter.zero_()
    least = pruner.minimum().params
    pruner.step({"params": least})
    assert pruner.cost().params == least


class Inner(nn.Module):
    """A part that two others split lies within one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(8, 10)
        self.a, self.b, self.c = (nn.Conv2d(inputs, 8, 3, padding=1) for inputs in (8, 8, 4))

    def forward(self, x):
        x = self.stem(x).relu()
        a, b = x.split(8, 1)
        return self.fc((self.a(a) + self.b(b) + self.c(x[:, :4])).relu().mean((2, 3)))


def test_one_of_each_part_stays_of_parts_within_others_too():
    torch.manual_seed(0)
    model = Inner()
    with torch.no_grad():
        for tensor in (model.stem.weight[:4], model.stem.bias[:4], model.c.weight):
            tensor *= 1e-3
    done = attar.prune(model, torch.zeros(2, 3, 8, 8), attar.Budget(params="40%"))
    assert done.cut.proof < 1e-10 and min(model.c.in_channels, model.a.in_channels, model.b.in_channels) >= 1
