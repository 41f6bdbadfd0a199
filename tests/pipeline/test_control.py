"""Controls: the run's very shape, fresh weights, as many images; resumable; shown in the run's report."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from command_line import attar
from safetensors.torch import load_file
from small_runs import DIGITS, NETWORK, SMALL

import attar as attar_package
from attar.artifact.shape import shaped
from attar.data import DataError, load_data
from attar.models import build
from attar.pipeline import Interrupted, RunError, run, stage_loop
from attar.pipeline.control import control, control_recipe
from attar.recipe import load_recipe
from attar.train import steps_for


@pytest.fixture(scope="module")
def controlled(finished_runs, tmp_path_factory):
    """A copy of run `a` with both controls."""
    path = tmp_path_factory.mktemp("controlled") / "a"
    shutil.copytree(finished_runs / "a", path)
    for options in ((), ("--without-teacher",)):
        said = attar("control", path, *options)
        assert said.exit_code == 0, said.output
    return path


@pytest.mark.parametrize("name", ["control-with-teacher", "control-without-teacher"])
def test_a_control_has_the_shape_and_the_images_of_its_run(controlled, name):
    run, own = (load_file(path / "artifact/model.safetensors") for path in (controlled, controlled / name))
    assert {key: tensor.shape for key, tensor in run.items()} == {key: tensor.shape for key, tensor in own.items()}
    assert any(not tensor.equal(own[key]) for key, tensor in run.items())
    reports = [json.loads((path / "artifact/report.json").read_text()) for path in (controlled, controlled / name)]
    assert reports[0]["cost"]["after"] == reports[1]["cost"]["after"]
    seen = reports[0]["images_seen"]
    assert abs(seen["distil"] + seen["prune"] - reports[1]["images_seen"]["distil"]) < 64
    assert attar("verify", controlled / name / "artifact").exit_code == 0


def test_controls_differ_in_the_teacher(controlled):
    with_teacher, without = (controlled / f"control-{kind}-teacher" for kind in ("with", "without"))
    assert load_file(with_teacher / "teach.safetensors").keys() == load_file(controlled / "teach.safetensors").keys()
    assert all(
        tensor.equal(load_file(controlled / "teach.safetensors")[key])
        for key, tensor in load_file(with_teacher / "teach.safetensors").items()
    )
    recipe = json.loads((without / "run.json").read_text())["recipe"]
    assert recipe["teacher"] is None
    assert recipe["distil"]["alpha"] == 0
    assert not (without / "teach.safetensors").exists()


def test_the_report_of_the_run_shows_them(controlled, finished_runs):
    before = json.loads((finished_runs / "a/test.json").read_text())
    assert json.loads((controlled / "test.json").read_text()) == before  # the test images were not read again
    report = json.loads((controlled / "artifact/report.json").read_text())
    assert [shown["name"] for shown in report["controls"]] == ["control with teacher", "control without teacher"]
    for shown in report["controls"]:
        own = json.loads((controlled / shown["name"].replace(" ", "-") / "test.json").read_text())
        assert shown["test"] == own["student"]
        paired = shown["mcnemar"]
        gained = report["test"]["student"]["hits"] - own["student"]["hits"]
        assert paired["first_only"] - paired["second_only"] == gained
    page = (controlled / "artifact/report.md").read_text()
    assert "## Controls" in page
    assert "its control with teacher" in page or "Its control with teacher" in page
    assert attar("verify", controlled / "artifact").exit_code == 0


def test_what_a_student_had_seen_before_is_said_to_be_left_out(controlled):
    from attar.report.controls import control_lines

    facts = json.loads((controlled / "artifact/report.json").read_text())
    assert len(control_lines(facts).splitlines()) == 2
    facts["recipe"]["student"]["weights"] = "trained.safetensors"
    assert "had seen before is not counted" in control_lines(facts).splitlines()[2]
    assert control_lines(facts | {"controls": []}) == ""


def test_a_stopped_control_goes_on_to_the_same_bits(controlled, finished_runs, tmp_path, monkeypatch):
    path = tmp_path / "a"
    shutil.copytree(finished_runs / "a", path)
    show, steps = stage_loop.StageLoop._show, 0

    def stop(loop, progress, label, training):
        nonlocal steps
        show(loop, progress, label, training)
        steps += 1
        if steps == 7:
            loop.save()
            raise Interrupted("here")

    monkeypatch.setattr(stage_loop.StageLoop, "_show", stop)
    with pytest.raises(Interrupted):
        control(path, with_teacher=False)
    monkeypatch.undo()
    name = "control-without-teacher"
    assert not (path / name / "distil.safetensors").exists()
    control(path, with_teacher=False)
    whole, resumed = (load_file(p / name / "artifact/model.safetensors") for p in (controlled, path))
    assert all(tensor.equal(resumed[key]) for key, tensor in whole.items())


def test_a_control_goes_on_from_another_working_directory(controlled, tmp_path, monkeypatch):
    run_facts = controlled / "control-with-teacher/run.json"
    before = json.loads(run_facts.read_text())["recipe"]
    monkeypatch.chdir(tmp_path)
    assert control(controlled, with_teacher=True) == controlled / "control-with-teacher"
    after = json.loads(run_facts.read_text())["recipe"]
    assert before.pop("student") != after.pop("student") and before.pop("teacher") != after.pop("teacher")
    assert before == after


def test_a_control_that_is_trained_otherwise_is_deleted_first(controlled):
    said = attar("control", controlled, "distil.train.learning_rate=0.03")
    assert said.exit_code == 2
    assert f"{controlled / 'control-with-teacher'} holds a control that is trained otherwise; delete it" in said.output
    assert "distil.train.learning_rate: 0.1 -> 0.03" in said.output and "--out" not in said.output
    assert attar("control", controlled).exit_code == 0


def test_a_control_of_a_run_that_has_not_read_the_test_does_not_either(finished_runs, tmp_path):
    path = tmp_path / "a"
    shutil.copytree(finished_runs / "a", path)
    (path / "test.json").unlink()
    folder = control(path, with_teacher=False)
    assert (folder / "export.safetensors").exists()
    assert not (folder / "test.json").exists()
    assert not (path / "test.json").exists()


def test_fresh_weights_keep_the_scale_of_every_layer(finished_runs):
    torch.manual_seed(0)
    whole = build("separable_resnet", **NETWORK)
    small = shaped(build("separable_resnet", **NETWORK), finished_runs / "a" / "artifact")
    names = dict(whole.named_parameters())
    narrower = [n for n, p in small.named_parameters() if p.dim() > 1 and p.shape[1] < names[n].shape[1]]
    assert narrower
    before = torch.cat([(names[n] ** 2).sum((1, 2, 3)) for n in narrower if names[n].dim() == 4]).mean().item()
    after = (
        torch.cat([(small.get_parameter(n) ** 2).sum((1, 2, 3)) for n in narrower if names[n].dim() == 4]).mean().item()
    )
    assert after == pytest.approx(before, rel=0.15)


def test_what_has_no_control_is_refused(controlled, finished_runs, tmp_path):
    with_teacher = controlled / "control-with-teacher"
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished_runs / "b", unfinished)
    (unfinished / "export.safetensors").unlink()
    by_labels = with_recipe(
        finished_runs / "a", tmp_path / "by-labels", lambda recipe: recipe["distil"].update(alpha=0)
    )
    for arguments, expected in (
        ((tmp_path,), "no run.json"),
        ((unfinished,), "has not finished"),
        ((with_teacher,), "pruned nothing"),
        ((controlled / "control-without-teacher",), "had no teacher"),
        ((by_labels,), "distil.alpha = 0"),
    ):
        said = attar("control", *arguments)
        assert said.exit_code == 2, said.output
        assert expected in said.output


def with_recipe(run, folder, change):
    """A copy of a finished run whose recorded recipe was another."""
    shutil.copytree(run, folder)
    facts = json.loads((folder / "run.json").read_text())
    change(facts["recipe"])
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_a_loss_of_ones_own_is_for_the_teacher_alone(finished_runs, tmp_path):
    path = with_recipe(finished_runs / "a", tmp_path / "a", lambda recipe: recipe["distil"].update(loss="mine:loss"))
    assert control_recipe(path, with_teacher=True).distil.loss == "mine:loss"
    assert control_recipe(path, with_teacher=False).distil.loss == "kl"


def test_weights_that_a_finished_stage_has_read_are_not_needed_again(finished_runs, tmp_path):
    def brought(recipe):
        recipe["teacher"] |= {"weights": "gone.safetensors", "train": None}

    path = with_recipe(finished_runs / "a", tmp_path / "a", brought)
    control(path, with_teacher=False)
    assert len(json.loads((path / "artifact/report.json").read_text())["controls"]) == 1


def test_a_student_that_was_only_fine_tuned_has_a_control_that_learns_as_fresh_weights_do(finished_runs, tmp_path):
    def compressed(recipe):
        recipe["prune"]["final"] |= {"learning_rate": 0.01, "batch": 64, "warmup": 0.0}
        recipe["distil"]["train"], recipe["student"]["weights"] = None, "trained.safetensors"

    path = with_recipe(finished_runs / "a", tmp_path / "a", compressed)
    train = control_recipe(path, with_teacher=True).distil.train
    assert (train.learning_rate, train.batch, train.ema) == (0.05, 64, 0.99)
    assert train.warmup == pytest.approx(train.epochs / 10, rel=0.05)
    usual = control_recipe(finished_runs / "a", with_teacher=True).distil.train
    assert (
        usual.learning_rate
        == json.loads((finished_runs / "a/run.json").read_text())["recipe"]["distil"]["train"]["learning_rate"]
    )


def test_the_training_of_a_control_can_be_chosen_and_nothing_else(finished_runs):
    path = finished_runs / "a"
    usual = control_recipe(path, True).distil.train
    train = control_recipe(path, True, ["distil.train.learning_rate=0.03", "distil.train.batch=32"]).distil.train
    assert (train.learning_rate, train.batch) == (0.03, 32)
    samples = json.loads((path / "run.json").read_text())["split"]["train"]
    seen = [steps_for(each, samples) * each.batch for each in (usual, train)]
    assert abs(seen[0] - seen[1]) <= 64
    for override, expected in (
        ("distil.temperature=2", "distil.train.KEY=VALUE"),
        ("distil.train.epochs=3", "epochs excepted"),
        ("distil.train.learning_rat=3", "did you mean 'learning_rate'"),
    ):
        said = attar("control", path, override)
        assert said.exit_code == 2 and expected in said.output


def test_a_final_shape_is_not_pruned_again(finished_runs):
    recipe = control_recipe(finished_runs / "a", with_teacher=True).model_dump(mode="json")
    from attar.recipe import RecipeError, check_recipe

    pruned = json.loads((finished_runs / "a/run.json").read_text())["recipe"]["prune"]
    with pytest.raises(RecipeError, match=r"leave \[prune\] out"):
        check_recipe({**recipe, "prune": pruned})


def test_data_that_a_program_gave_is_given_to_the_control_too(tmp_path):
    digits = load_data("digits")
    data = replace(digits, images=255 - digits.images, test_images=255 - digits.test_images)
    recipe = load_recipe(DIGITS, [*SMALL, "data.source=inverted"])
    with pytest.raises(DataError, match="data is of type int; give an ImageData, or a pair"):
        run(recipe, tmp_path / "run", data=3)
    run(recipe, tmp_path / "run", data=data)
    with pytest.raises(RunError, match=r"attar\.control too"):
        attar_package.control(tmp_path / "run", with_teacher=False)
    with pytest.raises(RunError, match="was run on other data"):
        attar_package.control(tmp_path / "run", with_teacher=False, data=digits)
    folder = attar_package.control(tmp_path / "run", with_teacher=False, data=data)
    facts = [json.loads((path / "run.json").read_text())["data"] for path in (tmp_path / "run", folder)]
    assert facts[0] == facts[1]
    assert json.loads((tmp_path / "run/artifact/report.json").read_text())["controls"][0]["test"]["n"] == 360
