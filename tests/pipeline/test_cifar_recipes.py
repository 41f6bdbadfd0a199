"""The CIFAR recipes, on small files in the exact format: everything but the training that makes an accuracy."""

from pathlib import Path

import pytest
from cifar_files import made_set, members, pack

import attar
from attar.data import cifar
from attar.pipeline.run import check
from attar.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ("epochs=0.5", "batch=32")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wanted, records = made_set(request.param)
    monkeypatch.setattr(cifar, request.param.upper(), wanted)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    assert wanted.archive is not None
    pack(tmp_path / wanted.archive, members(records))
    return tmp_path


@pytest.mark.parametrize(("folder", "name"), [(name, name) for name in ("cifar10", "cifar100")], indirect=["folder"])
def test_data_networks_and_budget_fit(folder: Path, name: str) -> None:
    """What a run checks before it trains: the teacher and the student take the images, the budget can be met."""
    recipe = load_recipe(RECIPES / f"{name}.toml", [f"data.folder={folder}", "data.held_out=100"])
    assert recipe.prune is not None and recipe.prune.steps == 30
    check(recipe, folder / "run")


@pytest.mark.parametrize("folder", ["cifar10"], indirect=True)
def test_a_short_run_ends_under_the_budget(folder: Path) -> None:
    short = [
        f"{table}.{value}"
        for table in ("teacher.train", "distil.train", "prune.train", "prune.final")
        for value in QUICK
    ]
    recipe = load_recipe(
        RECIPES / "cifar10.toml",
        [
            f"data.folder={folder}", "data.held_out=100", "prune.steps=2", "teacher.model=resnet20", "compute.threads=1",
            "teacher.arguments={widths=[4,6,8]}", "teacher.train.warmup=0", "distil.train.warmup=0",
            "prune.final.warmup=0", "export.onnx=false", "export.pt2=false", "export.int8=false", *short,
        ],
    )  # fmt: skip
    facts = attar.run(recipe, folder / "run")
    assert facts["cost"]["after"]["params"] <= 100_000 < facts["cost"]["before"]["params"]
    assert attar.load(folder / "run/artifact").artifact.class_names == cifar.CIFAR10_CLASSES
