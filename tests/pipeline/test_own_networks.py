"""A student of the user's own, whose code cannot follow a cut: trained, resumed and shipped as its captured graph."""

import json
from pathlib import Path

import pytest
import torch

import attar
from attar.pipeline import Interrupted
from attar.pipeline.stage_loop import StageLoop
from attar.recipe import check_recipe

HERE = Path(__file__).parent
TRAIN = {"epochs": 1.0, "batch": 64, "learning_rate": 0.05, "ema": 0.9}
RECIPE = {
    "name": "own",
    "data": {"source": "digits", "held_out": 100},
    "student": {"model": "hard_coded_network:hard_coded"},
    "distil": {"alpha": 0.0, "train": TRAIN},
    "prune": {"steps": 3, "allocation": "even", "budget": {"params": "50%"}, "train": TRAIN},
    "compute": {"threads": 1, "checkpoint_seconds": 0},
}


@pytest.fixture(autouse=True)
def findable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def test_a_network_that_hard_codes_sizes_is_pruned_shipped_and_resumed(tmp_path, monkeypatch):
    recipe = check_recipe(RECIPE)
    facts = attar.run(recipe, tmp_path / "straight")
    assert facts["cost"]["after"]["params"] <= facts["budget"]["params"] < facts["cost"]["before"]["params"]
    widths = facts["frontier"][-1]["widths"]
    assert widths["conv1.weight"] < 12
    assert "graphs" in json.loads((tmp_path / "straight/artifact/arch.json").read_text())["surgery"]
    model = attar.load(tmp_path / "straight/artifact", allow=["hard_coded_network:hard_coded"])
    assert attar.verify(tmp_path / "straight/artifact", allow=["hard_coded_network:hard_coded"]).passed
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    with pytest.raises(ValueError, match="hard_coded_network"):
        attar.load(tmp_path / "straight/artifact")  # foreign code runs only when it is asked for

    save = StageLoop.save

    def stop_in_step_two(self):
        save(self)
        if self.stage == "prune" and self.numbers["step"] == 2 and self.state.position.step > 0:
            raise Interrupted("for the test")

    monkeypatch.setattr(StageLoop, "save", stop_in_step_two)
    with pytest.raises(Interrupted):
        attar.run(recipe, tmp_path / "resumed")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(HERE))
    again = attar.run(recipe, tmp_path / "resumed")
    assert json.dumps(again["frontier"]) == json.dumps(facts["frontier"])
    weights = [(tmp_path / name / "artifact/model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert weights[0] == weights[1]
