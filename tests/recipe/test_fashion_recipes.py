"""The committed Fashion-MNIST recipes can do what they promise: their budgets are reached, step by step, without training."""

from pathlib import Path

import pytest
import torch

from attar.pipeline.session import network_spec
from attar.prune import Pruner
from attar.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    "name, least, most",
    [
        ("fashion-mnist-100k", 99_603, 99_603),
        ("fashion-mnist-100k-free", 97_000, 100_000),
        ("fashion-mnist-50k", 46_000, 50_000),
        ("fashion-mnist-25k", 22_500, 25_000),
        ("quick", 96_034, 96_034),
    ],
)
def test_the_budget_is_reached_in_the_recipes_own_steps(name, least, most):
    recipe = load_recipe(RECIPES / f"{name}.toml")
    settings = recipe.prune
    assert settings is not None and recipe.name == name and settings.steps == (3 if name == "quick" else 30)
    torch.manual_seed(0)
    pruner = Pruner(
        network_spec(recipe.student, 1, 10).build(),
        torch.zeros(2, 1, 28, 28),
        importance=settings.importance,
        allocation=settings.allocation,
        round_to=settings.round_to,
        floors=settings.floors,
        prove=False,
    )
    pruner.minimum(settings.budget)
    for limits in settings.budget.schedule(pruner.cost().as_dict(), settings.steps, settings.schedule):
        pruner.step(limits)
    counted = sum(parameter.numel() for parameter in pruner.model.parameters())
    assert counted == pruner.cost().params
    assert least <= counted <= most
    assert pruner.model.eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
