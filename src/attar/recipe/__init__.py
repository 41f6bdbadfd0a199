"""The recipe: a TOML file that says everything a run does. Nothing here imports torch."""

from attar.recipe.budget import Budget
from attar.recipe.load import RecipeError, changed, check_recipe, difference, load_recipe, value_of
from attar.recipe.toml import recipe_toml
from attar.recipe.types import Augment, Compute, Data, Distil, Export, Prune, Recipe, Student, Teacher, Training

__all__ = [
    "Augment",
    "Budget",
    "Compute",
    "Data",
    "Distil",
    "Export",
    "Prune",
    "Recipe",
    "RecipeError",
    "Student",
    "Teacher",
    "Training",
    "changed",
    "check_recipe",
    "difference",
    "load_recipe",
    "recipe_toml",
    "value_of",
]
