"""`attar run --dry-run`: what it says of a run is what the run does, and it leaves nothing behind."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import DIGITS, NETWORK, SMALL
from typer.testing import CliRunner

from attar.cli.app import app
from attar.cli.plan import rehearsal_text
from attar.models import build
from attar.pipeline.folder import RunError
from attar.pipeline.rehearsal import OUTPUTS, rehearse
from attar.pipeline.run import check
from attar.pipeline.watch import Silent
from attar.prune import Pruner
from attar.recipe import RecipeError, load_recipe
from attar.train import machine


@pytest.mark.parametrize("changes", [(), ("prune.importance=taylor", "distil.view_pool=1")])
def test_it_foresees_the_run(finished_runs, tmp_path, changes):
    found = rehearse(load_recipe(DIGITS, (*SMALL, *changes)), tmp_path / "never")
    report = json.loads((finished_runs / "a" / "artifact" / "report.json").read_text())
    assert found.images == report["images_seen"]
    assert list(found.seconds) == ["teach", OUTPUTS, "distil", "prune"] and min(found.seconds.values()) > 0
    assert found.planned is not None
    assert found.planned.cut.after.params <= report["budget"]["params"] and found.planned.cut.proof < 1e-10
    assert not list(tmp_path.iterdir())


def test_it_leaves_out_what_is_done(finished_runs):
    before = {path: path.stat().st_mtime_ns for path in (finished_runs / "a").rglob("*")}
    found = rehearse(load_recipe(DIGITS, SMALL), finished_runs / "a")
    assert found.images == {} == found.seconds and found.planned is None
    assert before == {path: path.stat().st_mtime_ns for path in (finished_runs / "a").rglob("*")}


def test_a_teacher_that_is_done_is_still_asked(finished_runs, tmp_path):
    for name in ("run.json", "recipe.toml", "teach.safetensors"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes((finished_runs / "a" / name).read_bytes())
    found = rehearse(load_recipe(DIGITS, SMALL), tmp_path / "run")
    assert list(found.seconds) == [OUTPUTS, "distil", "prune"] and "teach" not in found.images


@pytest.mark.parametrize("source", ["the distilled weights", "student.weights"])
def test_the_shape_is_planned_by_the_weights_that_are_there(finished_runs, tmp_path, source):
    distilled, given = finished_runs / "a" / "distil.safetensors", ()
    if source == "student.weights":
        given = (f"student.weights={distilled}",)
    else:
        for name in ("run.json", "distil.safetensors"):
            (tmp_path / name).write_bytes((finished_runs / "a" / name).read_bytes())
    recipe = load_recipe(DIGITS, (*SMALL, *given))
    found = rehearse(recipe, tmp_path)
    settings, network = recipe.prune, build("separable_resnet", **NETWORK)
    network.load_state_dict(load_file(distilled))
    pruner = Pruner(network, torch.zeros(2, 1, 8, 8), settings.importance, settings.allocation)
    expected = pruner.step(settings.budget).kept
    kept = found.planned.cut.kept
    assert kept.keys() == expected.keys()
    assert all(one.equal(two) for name in kept for (_, one), (_, two) in zip(kept[name], expected[name], strict=True))
    assert found.ranked_by == source and f"cut at once by {source}:" in rehearsal_text(recipe, found)


def test_members_are_told_one_by_one_and_sparse_learning_counts(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("""
        name = "several"
        data = { source = "digits", held_out = 200 }
        compute = { precision = "fp32", threads = 1 }
        student = { model = "resnet20", arguments = { widths = [4, 6, 8] } }
        distil.train = { epochs = 1, batch = 64 }
        [[teacher.members]]
        model = "resnet20"
        arguments = { widths = [4, 6, 8] }
        train = { epochs = 2, batch = 64 }
        [[teacher.members]]
        model = "resnet20"
        arguments = { widths = [4, 4, 4] }
        train = { epochs = 1, batch = 64 }
        [prune]
        steps = 2
        budget.params = "50%"
        train = { epochs = 1, batch = 64 }
        sparse.train = { epochs = 3, batch = 64 }
    """)
    found = rehearse(load_recipe(recipe), tmp_path / "run")
    epoch = found.images["distil"]
    assert found.images == {"teach-1": 2 * epoch, "teach-2": epoch, "distil": epoch, "prune": 5 * epoch}


def test_what_cannot_be_run_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="budget cannot be met"):
        rehearse(load_recipe(DIGITS, (*SMALL, "prune.budget.params=10")), tmp_path / "run")


def test_a_folder_that_the_run_would_refuse_is_refused(finished_runs, tmp_path):
    with pytest.raises(RunError, match="run of another recipe") as caught:
        rehearse(load_recipe(DIGITS, (*SMALL, "distil.temperature=3")), finished_runs / "a")
    assert "distil.temperature" in str(caught.value)
    facts = json.loads((finished_runs / "a" / "run.json").read_text())
    facts["data"]["fingerprint"] = "other"
    (tmp_path / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="started on another data"):
        rehearse(load_recipe(DIGITS, SMALL), tmp_path)
    (tmp_path / "run.json").rename(tmp_path / "thesis.tex")
    with pytest.raises(RunError, match="is not a run folder and holds thesis"):
        rehearse(load_recipe(DIGITS, SMALL), tmp_path)


@pytest.mark.parametrize(("native", "precision", "told"), [(False, "bf16", 1), (True, "bf16", 0), (False, "auto", 0)])
def test_a_precision_that_the_processor_lacks_is_told(monkeypatch, tmp_path, native, precision, told):
    monkeypatch.setattr(machine, "_native_bf16", lambda kind: native)
    watcher, notes = Silent(), []
    watcher.note = notes.append
    check(load_recipe(DIGITS, (*SMALL, f"compute.precision={precision}")), tmp_path / "run", watcher)
    assert sum("is not native here and is emulated" in note for note in notes) == told


def test_the_commands(tmp_path):
    said = CliRunner().invoke(app, ["run", str(DIGITS), *SMALL, "--dry-run", "--out", str(tmp_path / "run")])
    assert said.exit_code == 0 and "nothing was trained" in said.output and "proved: relative error" in said.output
    assert not list(tmp_path.iterdir())
    said = CliRunner().invoke(app, ["plan", str(DIGITS)])
    assert said.exit_code == 2 and f"attar run {DIGITS} --dry-run" in " ".join(said.output.split())
