"""Small digits runs that several tests look at."""

import pytest
from small_runs import DIGITS, SMALL

from attar.pipeline import run
from attar.recipe import load_recipe


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """Runs of the same recipe: `a` and `b` with seeds 0 and 1, `cold` with another temperature. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    for name, changes in (("a", ()), ("b", ("seed=1",)), ("cold", ("distil.temperature=1",))):
        run(load_recipe(DIGITS, (*SMALL, *changes)), folder / name)
    return folder
