"""Sparse learning within a run: what the growing penalty shrinks is what the budget cuts, stopped in its middle or not."""

import pytest
import torch
from small_runs import DIGITS, small

from attar.pipeline import run
from attar.pipeline.folder import RunFolder
from attar.pipeline.watch import Silent
from attar.recipe import RecipeError, load_recipe
from attar.train import read_checkpoint

GROWING = small(
    "student.model=cnn5", "student.arguments={widths=[8,12,16],hidden=16,size=8}", "distil.train.epochs=6", "distil.alpha=0",
    "prune.steps=1", "prune.budget.params=40%", "prune.final.epochs=0.1",
    "prune.sparse.penalty=growing", "prune.sparse.every=3", "prune.sparse.train.epochs=4", "prune.sparse.train.batch=64",
    "prune.sparse.train.learning_rate=0.05", "compute.checkpoint_seconds=0.1",
)  # fmt: skip


class Stopping(Silent):
    def update(self, update):
        if update.stage == "prune" and update.done > 0.7:
            raise InterruptedError


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(DIGITS, GROWING)


def test_units_that_were_shrunk_are_cut_at_no_loss(recipe, tmp_path):
    """As much is right after the cut of 60 % of the parameters as before it; stopped under the penalty, the same bits."""
    run(recipe, tmp_path / "straight", until="prune")
    before, after = RunFolder(tmp_path / "straight").numbers("prune")["frontier"]
    assert after["removed"] >= 10 and before["held_out"] > 0.6
    assert after["held_out_before"] > before["held_out"] - 0.03

    with pytest.raises(InterruptedError):
        run(recipe, tmp_path / "stopped", Stopping(), until="prune")
    assert any(name.startswith("stays/") for name in read_checkpoint(tmp_path / "stopped/checkpoint.safetensors")[0])
    run(recipe, tmp_path / "stopped", until="prune")
    straight, stopped = (read_checkpoint(tmp_path / name / "prune.safetensors")[0] for name in ("straight", "stopped"))
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in straight.items())


def test_settings_of_the_other_penalty_are_refused():
    with pytest.raises(RecipeError, match="alpha = 2 is of the penalty 'lasso', and this is 'growing'"):
        load_recipe(DIGITS, [*GROWING, "prune.sparse.alpha=2"])
