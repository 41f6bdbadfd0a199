"""Small digits runs that several tests look at."""

from pathlib import Path

import pytest

from attar.pipeline import run
from attar.recipe import load_recipe

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.toml"
SMALL = (
    "compute.precision=fp32", "compute.device=cpu", "compute.threads=1",
    "teacher.arguments.widths=[4,6,8]", "teacher.train.epochs=1", "teacher.train.warmup=0",
    "student.arguments.widths=[4,6,8]", "distil.train.epochs=1", "distil.train.warmup=0",
    "prune.steps=2", "prune.train.epochs=0.2", "prune.final.epochs=0.5",
    "export.onnx=false", "export.pt2=false", "export.int8=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """Runs of the same recipe: `a` and `b` with seeds 0 and 1, `cold` with another temperature. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    for name, changes in (("a", ()), ("b", ("seed=1",)), ("cold", ("distil.temperature=1",))):
        run(load_recipe(DIGITS, (*SMALL, *changes)), folder / name)
    return folder
