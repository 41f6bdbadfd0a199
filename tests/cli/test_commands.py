"""Commands: what they print, their exit codes, and what they say of bad input before anything is computed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from attar.artifact import ArtifactError
from attar.cli.app import app
from attar.pipeline import finish
from attar.pipeline import folder as run_folder
from attar.pipeline.weights import load_weights
from attar.prune.latency import Latency

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "recipes" / "digits.toml")
TINY = [
    "teacher.train.warmup=0", "distil.train.warmup=0", "teacher.train.epochs=0.5", "distil.train.epochs=0.5",
    "prune.steps=2", "prune.train.epochs=0.1", "prune.final.epochs=0.2", "export.onnx=false", "export.pt2=false",
    "teacher.model=cnn5", "teacher.arguments={widths=[4,4,4],hidden=8,size=8}",
    "student.model=separable_resnet", "student.arguments={widths=[16,32],depths=[2,2],strides=[1,2]}",
]  # fmt: skip


def attar(*arguments: str):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    result = attar("run", DIGITS, *TINY, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_run_ends_by_saying_where_things_are(done):
    out, said = done
    assert f"report:   {out}/artifact/report.md" in said
    assert f"artifact: {out}/artifact" in said
    assert "on 360 test images with" in said
    for stage in ("teach", "distil", "prune", "export", "report"):
        assert f"== {stage}" in said


def test_artifact_commands_need_no_recipe(done, tmp_path):
    out, _ = done
    artifact = tmp_path / "elsewhere"
    shutil.copytree(out / "artifact", artifact)
    report = json.loads((artifact / "report.json").read_text())
    verified = attar("verify", artifact)
    assert verified.exit_code == 0
    assert "FAIL" not in verified.output
    evaluated = attar("eval", artifact)
    assert evaluated.exit_code == 0
    assert f"{report['test']['student']['accuracy']:.2%}" in evaluated.output
    loaded = attar("load", artifact)
    assert f"Total params: {report['cost']['after']['params']:,}" in loaded.output


def test_verify_fails_a_tampered_artifact(done, tmp_path):
    out, _ = done
    artifact = tmp_path / "tampered"
    shutil.copytree(out / "artifact", artifact)
    weights = bytearray((artifact / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (artifact / "model.safetensors").write_bytes(weights)
    result = attar("verify", artifact)
    assert result.exit_code == 1
    assert "FAIL" in result.output
    assert attar("eval", artifact).exit_code == 2


def test_who_stops_reading_stops_nothing(done, tmp_path):
    """`| head`: a run goes on to its end, and what does not hold is still told by the exit code."""

    def unread(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "attar", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.close()
        said = process.stderr.read()
        return process.wait(), said

    out = tmp_path / "run"
    shutil.copytree(done[0], out)
    (out / "artifact" / "report.md").unlink()
    assert unread("run", DIGITS, *TINY, "--out", out) == (0, b"")
    assert (out / "artifact" / "report.md").is_file()
    (out / "artifact" / "model.safetensors").write_bytes(b"")
    assert unread("verify", out / "artifact")[0] == 1
    assert unread("models") == (0, b"")


def test_what_a_recipe_insists_on_decides_the_exit_code(tmp_path, monkeypatch):
    """A view that must be made, and a latency that is measured anew at the end: the report is written, and 1 says it."""

    def broken(*arguments, **keywords):
        raise ArtifactError("no program\ncan be had")

    monkeypatch.setattr("attar.artifact.export_pt2", broken)
    monkeypatch.setattr(finish, "measure_latency", lambda *how: Latency(99.0, 0, 1, 1, 1, 1))
    given = [*TINY, "export.pt2=true", "prune.budget.latency=60s", "--out", tmp_path / "run"]
    for _ in range(2):  # what is done is told again
        result = attar("run", DIGITS, *given)
        assert result.exit_code == 1 and (tmp_path / "run" / "artifact" / "report.md").is_file()
        last = "attar: model.pt2 failed: no program can be had; budget latency <= 60 s MISSED with 99 s"
        assert result.output.splitlines()[-1] == last


def test_verify_needs_an_artifact(tmp_path):
    for path, expected in ((tmp_path / "nosuch", "is no folder"), (tmp_path, "has no manifest.json")):
        result = attar("verify", path)
        assert result.exit_code == 2
        assert f"attar: {path}" in result.stderr and expected in result.stderr


def test_report_holds_what_it_must(done):
    out, _ = done
    report = json.loads((out / "artifact" / "report.json").read_text())
    assert [point["step"] for point in report["frontier"]] == [0, 1, 2]
    assert report["cost"]["after"]["params"] <= report["budget"]["params"]
    assert all(point["proof"] < 1e-10 for point in report["frontier"][1:])
    predictions = json.loads((out / "artifact" / "predictions.json").read_text())
    hits = sum(a == b for a, b in zip(predictions["labels"], predictions["student"]))
    assert hits == report["test"]["student"]["hits"]
    assert report["environment"]["versions"]["torch"]
    assert report["recipe"]["prune"]["steps"] == 2
    page = (out / "artifact" / "report.md").read_text()
    assert "## Frontier" in page
    assert "**held**" in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["distil.temprature=2"], "did you mean 'temperature'?"),
        (["prune.budget.params=100"], "smallest"),
        (["student.model=resnt20"], "did you mean 'resnet20'"),
        (["student.arguments.widhts=[1,2,3]"], "did you mean 'widths'"),
        (["data.source=digit"], "did you mean 'digits'?"),
        (["data.held_out=99999"], "data.held_out = 99999"),
        (["prune.importance=group_nrom"], "did you mean 'group_norm'"),
        (["prune.protect=['no.such.layer']"], "no.such.layer"),
        (["teacher.weights=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_recipes_are_refused_before_anything_is_computed(tmp_path, arguments, expected):
    result = attar("run", DIGITS, *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert expected in result.output
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_refused_recipe_leaves_the_folder_usable(tmp_path):
    out = tmp_path / "run"
    assert attar("run", DIGITS, "student.model=resnet21", "--out", out).exit_code == 2
    assert attar("run", DIGITS, *TINY, "prune.steps=1", "--out", out).exit_code == 0


def test_unusable_folders(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    result = attar("run", DIGITS, "--out", file / "run")
    assert result.exit_code == 2
    assert "cannot write to the run folder" in result.output
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    result = attar("run", DIGITS, "--out", foreign)
    assert result.exit_code == 2
    assert "thesis.tex" in result.output
    monkeypatch.setattr(run_folder, "FREE_BYTES", 1 << 62)
    result = attar("run", DIGITS, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "make room" in result.output


def test_a_disk_that_fills_up_is_told_and_the_run_goes_on_later(tmp_path, monkeypatch):
    out = tmp_path / "run"
    write, count = run_folder.write_checkpoint, 0

    def full(path, tensors, numbers):
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(28, os.strerror(28))
        write(path, tensors, numbers)

    monkeypatch.setattr(run_folder, "write_checkpoint", full)
    result = attar("run", DIGITS, *TINY, "--out", out)
    assert result.exit_code == 2
    assert "No space left on device" in result.output
    monkeypatch.undo()
    assert attar("run", DIGITS, *TINY, "--out", out).exit_code == 0


def test_only_what_keeps_checkpoints_says_that_it_goes_on(done, tmp_path, monkeypatch):
    from attar import artifact
    from attar.pipeline import teaching

    def stopped(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact, "open_runner", stopped)
    said = attar("eval", done[0] / "artifact")
    assert said.exit_code == 130 and said.stderr == "attar: interrupted\n"
    monkeypatch.setattr(teaching.StageLoop, "fit", stopped)
    said = attar("run", DIGITS, *TINY, "--out", tmp_path / "run")
    assert said.exit_code == 130 and "goes on from the last checkpoint" in said.stderr


def test_divergence_ends_with_exit_code_1(tmp_path):
    broken = "teacher.train.learning_rate=1e6"
    result = attar("run", DIGITS, *TINY, "compute.checkpoint_seconds=60", broken, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "the loss is" in result.output
    assert "last good checkpoint" not in result.output  # none was written
    often = [*TINY, "compute.checkpoint_seconds=0", broken, "--out", tmp_path / "often"]
    result = attar("run", DIGITS, *often)
    assert result.exit_code == 1
    assert f"The last good checkpoint is in {tmp_path / 'often'}" in result.output
    kept = tmp_path / "often/checkpoint.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    result = attar("run", DIGITS, *often)
    assert result.exit_code == 1
    assert "is damaged" in result.output
    assert "last good checkpoint" not in result.output


def test_a_teacher_given_as_weights_skips_teaching(done, tmp_path):
    out, _ = done
    result = attar("run", DIGITS, *TINY, f"teacher.weights={out / 'teach.safetensors'}", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "teach: epoch" not in result.output
    first, second = (json.loads((run / "test.json").read_text()) for run in (out, tmp_path / "run"))
    assert first["predictions"]["teacher"] == second["predictions"]["teacher"]


def test_weights_of_another_network_are_refused(done, tmp_path):
    out, _ = done
    arguments = [f"teacher.weights={out / 'teach.safetensors'}", "teacher.arguments.widths=[5,5,5]"]
    result = attar("run", DIGITS, *TINY, *arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "does not fit the network" in result.output


@pytest.mark.parametrize("name, value", [("fc2.weight", "nan"), ("fc2.weight", "inf"), ("bn.running_mean", "nan")])
def test_weights_that_are_not_finite_are_refused(done, tmp_path, name, value):
    out, _ = done
    weights = load_file(out / "teach.safetensors")
    assert name in weights
    weights[name].view(-1)[0] = float(value)
    file = tmp_path / "broken.safetensors"
    save_file(weights, file)
    result = attar("run", DIGITS, *TINY, f"teacher.weights={file}", "--dry-run", "--out", tmp_path / "run")
    assert result.exit_code == 2, result.output
    assert str(file) in result.output and f"not finite, first {name}" in result.output


def test_masks_among_the_weights_may_be_infinite(tmp_path):
    model = torch.nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    save_file(model.state_dict(), tmp_path / "masked.safetensors")
    load_weights(model, tmp_path / "masked.safetensors", "student.weights")


def test_control_without_teacher_and_pruning(tmp_path):
    recipe = tmp_path / "control.toml"
    recipe.write_text(
        'name = "control"\n[data]\nsource = "digits"\nheld_out = 0\n[student]\nmodel = "resnet20"\n'
        "arguments = { widths = [4, 4, 4] }\n[distil]\nalpha = 0\n[distil.train]\nepochs = 0.5\n"
    )
    result = attar("run", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert attar("verify", tmp_path / "run" / "artifact").exit_code == 0


def test_summary_is_the_references_table():
    said = attar("summary", "resnet20", "--widths", "9,19,39", "--input", "1,28,28").output
    for line in ("Total params: 99,603", "Forward/backward pass size (MB): 2.28", "Params size (MB): 0.38",
                 "Estimated Total Size (MB): 2.66"):  # fmt: skip
        assert line in said
    assert attar("summary", "resnet20", "--widths", "9,x").exit_code == 2
    assert attar("summary", "resnet20", "--input", "28").exit_code == 2


def test_version_and_models():
    assert attar("--version").output.startswith("attar ")
    assert "resnet20" in attar("models").output.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ["prune.importance=taylor", "prune.schedule=linear", "prune.allocation=isomorphic"],
        ["prune.sparse.train.epochs=0.3", "prune.sparse.train.learning_rate=0.05", "prune.floors=0.5"],
        ["prune.budget={macs='50%', bytes='60%'}", "prune.round_to=2"],
    ],
    ids=["gradients", "sparse", "several limits"],
)
def test_ways_to_prune(tmp_path, arguments):
    out = tmp_path / "run"
    result = attar("run", DIGITS, *TINY, *arguments, "--out", out)
    assert result.exit_code == 0, result.output
    report = json.loads((out / "artifact" / "report.json").read_text())
    assert all(report["cost"]["after"][kind] <= limit for kind, limit in report["budget"].items())
    assert [point["step"] for point in report["frontier"]] == [0, 1, 2]
    widths = report["frontier"][-1]["widths"], report["frontier"][0]["widths"]
    cut = [after for group, after in widths[0].items() if after < widths[1][group]]
    assert cut
    if "prune.round_to=2" in arguments:
        assert all(after % 2 == 0 for after in cut)
    if "prune.floors=0.5" in arguments:
        assert all(after >= widths[1][group] // 2 for group, after in widths[0].items())


def test_a_cut_that_cannot_be_proved_stops_the_run(tmp_path, monkeypatch):
    from attar.prune import ProofError
    from attar.prune.cutter import Cutter

    def wrong(self, indices, masks):
        raise ProofError("the cut was not done: relative error 0.5")

    monkeypatch.setattr(Cutter, "prove", wrong)
    result = attar("run", DIGITS, *TINY, "--out", tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert "relative error 0.5" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run" / "artifact").exists()
