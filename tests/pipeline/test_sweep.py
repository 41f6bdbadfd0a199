"""Sweeps: every point checked first, named, resumed; divergence recorded; chosen on held-out images, test unread."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from command_line import attar, cells
from small_runs import DIGITS, small
from test_record import results

from attar.pipeline import stage_loop
from attar.pipeline.folder import RunError
from attar.pipeline.grid import grid, point_name, values_of
from attar.pipeline.outcome import read_outcome
from attar.pipeline.sweep import _record as record_points
from attar.pipeline.sweep import _recorded
from attar.prune import BudgetError, Pruner
from attar.recipe import RecipeError

SHORT = small("distil.train.epochs=0.3", "teacher.train.epochs=0.3", "prune.steps=1")


def sweep(out, *arguments):
    varied = [argument.partition("=")[0] for argument in arguments]
    fixed = [pair for pair in SHORT if pair.partition("=")[0] not in varied]
    return attar("sweep", DIGITS, *fixed, *arguments, "--out", out)


def test_values_may_be_lists_words_and_tables():
    assert values_of("[9,19,39],[8, 16, 32]") == ["[9,19,39]", "[8, 16, 32]"]
    assert values_of("{params='40%', macs='50%'},{params=1_000}") == ["{params='40%', macs='50%'}", "{params=1_000}"]
    assert values_of("even,global") == ["even", "global"]
    points = grid(DIGITS, ["student.arguments.widths=[9,19,39],[8,16,32]", "distil.temperature=2"], (0, 1))
    assert [point.name for point in points] == [
        "student.arguments.widths=9-19-39,seed=0",
        "student.arguments.widths=9-19-39,seed=1",
        "student.arguments.widths=8-16-32,seed=0",
        "student.arguments.widths=8-16-32,seed=1",
    ]
    assert points[3].recipe.student.arguments["widths"] == [8, 16, 32]
    assert {point.recipe.distil.temperature for point in points} == {2.0}


def test_several_recipes_are_points_too(tmp_path):
    short, long = tmp_path / "short.toml", tmp_path / "long.toml"
    for file, epochs in ((short, 3), (long, 7)):
        file.write_text(DIGITS.read_text().replace("epochs = 12", f"epochs = {epochs}"))
    points = grid([short, long], ["distil.temperature=2,4"])
    assert [point.name for point in points] == [
        "short,distil.temperature=2",
        "short,distil.temperature=4",
        "long,distil.temperature=2",
        "long,distil.temperature=4",
    ]
    assert [point.recipe.distil.train.epochs for point in points] == [3, 3, 7, 7]
    assert [point.name for point in grid([short, long], [])] == ["short", "long"]
    with pytest.raises(RecipeError, match="recipes share a file's name"):
        grid([short, short], [])


def test_names_are_short_distinct_and_fit_for_folders():
    names = {point_name([f"prune.protect=['{'layer' * 40}{n}']"]) for n in range(3)}
    assert len(names) == 3
    assert all(len(name) < 140 and "/" not in name and "'" not in name for name in names)
    assert point_name(["x.y=-1"]) == "x.y=-1" and point_name(["w=[-9, 19]"]) == "w=-9-19"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["distil.temperature=2,hot"], "distil.temperature=hot"),
        (["distil.temprature=2,3"], "did you mean 'temperature'?"),
        (["distil.alpha=0.5,1.5"], "distil.alpha=1.5"),
        (["distil.alpha=0.5,"], "write an axis as"),
        (["student.arguments.widths=[4,6,8],[4,6"], "a bracket or quote is missing"),
        (["distil.alpha=0.5,0.5"], "a value is given twice"),
        (["--seeds", "0,x"], "whole numbers"),
        (["prune.budget.params='50%',50"], "smallest"),
        (["student.model=resnet20,resnt20"], "did you mean 'resnet20'"),
        (["data.held_out=0"], "nothing to choose by"),
        (["data.split_seed=0,1"], "cannot be compared; sweep them apart"),
        (["data.held_out=100,200"], "data.held_out=200: 200 held-out images of digits"),
    ],
)
def test_bad_points_are_named_before_anything_runs(tmp_path, arguments, expected):
    said = sweep(tmp_path / "sweep", *arguments)
    assert said.exit_code == 2, said.output
    assert expected in said.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_sweep_is_compared_on_held_out_images_and_done_once(tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    taught = []
    original = stage_loop.StageLoop.fit
    monkeypatch.setattr(
        stage_loop.StageLoop, "fit", lambda loop, *a, **k: (taught.append(loop.stage), original(loop, *a, **k))[1]
    )
    said = sweep(out, "distil.temperature=2,4")
    assert said.exit_code == 0, said.output
    assert taught == ["teach", "distil", "prune", "distil", "prune"]  # the same teacher is not taught twice
    assert "200 held-out training images" in said.output
    assert cells(said.output, "distil.temperature") == ["2.0", "4.0"]
    assert not list(out.rglob("test.json"))
    assert not list(out.rglob("report.json"))
    page = (out / "compare.md").read_text()
    again = sweep(out, "distil.temperature=2,4")
    assert again.exit_code == 0
    assert len(taught) == 5
    assert (out / "compare.md").read_text() == page
    more = sweep(out, "distil.temperature=2,4,8")
    assert more.exit_code == 0
    assert taught[5:] == ["distil", "prune"]
    other = sweep(out, "distil.temperature=2,4", "seed=7")
    assert other.exit_code == 2 and "holds a run of another recipe" in other.output and len(taught) == 7
    chosen = attar("run", DIGITS, *SHORT, "distil.temperature=4", "--out", out / "distil.temperature=4")
    assert chosen.exit_code == 0
    assert (out / "distil.temperature=4" / "test.json").exists()
    assert len(taught) == 7


def test_two_sweeps_in_one_folder_keep_each_others_entries(tmp_path):
    def work(axis):
        points, failed = grid(DIGITS, [axis]), {}
        for point in points:
            (tmp_path / point.name).mkdir()
            failed[point.name] = f"broke down: {axis}"
            record_points(tmp_path, points, failed)

    axes = ("distil.temperature=1,2,3,4,5,6,7,8", "distil.alpha=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8")
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, axes))
    table = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert sorted(point["error"] for point in table.values()) == sorted(8 * [f"broke down: {axis}" for axis in axes])


def test_a_point_that_diverges_does_not_stop_the_rest(tmp_path):
    out = tmp_path / "sweep"
    axis = "distil.train.learning_rate=1e6,0.1"
    said = sweep(out, axis)
    assert said.exit_code == 1, said.output
    assert "broke down: distil.train.learning_rate=1e6" in said.output
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert "the loss is" in points["distil.train.learning_rate=1e6"]["error"]
    assert points["distil.train.learning_rate=0.1"]["done"]
    again = sweep(out, axis)
    assert again.exit_code == 1 and "broke down before" in again.output


@pytest.mark.parametrize(
    ("owner", "name", "calls", "place"),
    [
        (import_module("attar.pipeline.run"), "check_budget", 3, "prune: "),
        (Pruner, "plan", 1, "step 1, on the way to params <= "),
    ],
    ids=["when the point begins", "when it is cut"],
)
def test_a_budget_out_of_reach_does_not_stop_the_rest(tmp_path, monkeypatch, owner, name, calls, place):
    """Latencies that held when all points were checked, say, and do not when they are measured again."""
    out, asked, original = tmp_path / "sweep", [], getattr(owner, name)

    def refused(*arguments):
        asked.append(arguments)
        if len(asked) == calls:
            raise BudgetError("latency <= 2 ms does not hold; raise the limit", {"latency": 0.003})
        return original(*arguments)

    monkeypatch.setattr(owner, name, refused)
    said = sweep(out, "distil.temperature=2,4")
    assert said.exit_code == 1, said.output
    assert f"broke down: distil.temperature=2: {place}" in said.output
    assert "latency <= 2 ms does not hold; raise the limit" in said.output
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert "raise the limit" in points["distil.temperature=2"]["error"]
    assert points["distil.temperature=4"]["done"]
    again = sweep(out, "distil.temperature=2,4")
    assert again.exit_code == 1 and f"broke down before: {place}" in again.output


def test_weights_that_are_not_finite_do_not_stop_the_rest(tmp_path):
    said = sweep(tmp_path / "sweep", "compute.checkpoint_seconds=0", "distil.train.learning_rate=1e39,0.1")
    assert said.exit_code == 1, said.output
    points = json.loads((tmp_path / "sweep/sweep.json").read_text())["points"]
    broken, fine = points.values()
    assert "is not finite" in broken["error"] and fine["done"]


def test_a_sweep_leaves_a_record_that_results_are_made_from(tmp_path, finished_runs):
    out, records, page = tmp_path / "rates", tmp_path / "records", tmp_path / "RESULTS.md"
    axis = "distil.train.learning_rate=0.1,1e6,0.01"
    assert sweep(out, axis).exit_code == 1
    said = attar("record", out, records)
    assert said.exit_code == 0, said.output
    record = json.loads((records / "sweeps/rates/sweep.json").read_text())
    predictions = json.loads((records / "sweeps/rates/predictions.json").read_text())
    fast, broken, slow = record["points"]
    assert predictions.keys() == {"labels", fast, slow}
    assert "error" in record["points"][broken]
    assert record["points"][slow]["recipe"]["distil"]["train"]["learning_rate"] == 0.01
    curves = [json.loads(line) for line in (records / "sweeps/rates/metrics.jsonl").read_text().splitlines()]
    assert {line["point"] for line in curves} == {fast, slow}
    assert str(tmp_path) not in "".join(file.read_text() for file in records.rglob("*.json*"))
    assert attar("record", out, records).exit_code == 0

    attar("record", finished_runs / "a", records)
    assert not results("--records", records, "--out", page)
    text = page.read_text()
    hits = {name: record["points"][name]["held_out"]["hits"] for name in (fast, slow)}
    for name in (fast, slow):
        assert f"| {name} | {100 * hits[name] / 200:.2f} % |" in text
    assert f"| {broken} | - |" in text
    assert "| best |" in text

    record["points"][slow]["held_out"]["hits"] += 1
    (records / "sweeps/rates/sweep.json").write_text(json.dumps(record))
    assert "its predictions do not" in results("--records", records, "--out", page)


def test_an_unfinished_sweep_has_no_record(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"points": {"seed=0": {"overrides": ["seed=0"], "done": False}}}))
    said = attar("record", tmp_path, tmp_path / "records")
    assert said.exit_code == 2
    assert "seed=0 is not done" in said.output


def test_a_torn_list_of_points_is_named_with_the_way_out(tmp_path):
    (tmp_path / "sweep.json").write_text('{"points": {')
    said = attar("record", tmp_path, tmp_path / "records")
    assert said.exit_code == 2
    assert "sweep.json is damaged (Expecting" in said.output
    with pytest.raises(RunError, match="or delete it, and the next sweep writes it anew"):
        _recorded(tmp_path)


def test_a_sweep_that_broke_down_everywhere_has_no_record(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"points": {"seed=0": {"overrides": ["seed=0"], "error": "NaN"}}}))
    said = attar("record", tmp_path, tmp_path / "records")
    assert said.exit_code == 2
    assert "broke down" in said.output
    assert not (tmp_path / "records").exists()


def test_another_grid_in_the_same_folder_leaves_the_points_before_it(tmp_path):
    out = tmp_path / "sweep"
    broken = sweep(out, "distil.train.learning_rate=1e6")
    assert broken.exit_code == 1
    (out / "only").rename(out / "before")  # as a point of another grid
    table = json.loads((out / "sweep.json").read_text())
    (out / "sweep.json").write_text(json.dumps({**table, "points": {"before": table["points"]["only"], "gone": {}}}))
    said = sweep(out, "distil.alpha=0.9")
    assert said.exit_code == 0, said.output
    assert "broke down" not in said.output
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert list(points) == ["before", "only"]
    assert "error" in points["before"] and points["only"]["done"]
    held_out = read_outcome(out / "only", held_out=True)
    assert f"only: {held_out.accuracy:.2%} [" in said.output and f"run: {out / 'only'}" in said.output


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    out = tmp_path / "sweep"
    folder = out / "distil.temperature=2"
    folder.mkdir(parents=True)
    recipe = grid(DIGITS, [*SHORT, "distil.temperature=2,4"])[0].recipe.model_dump(mode="json")
    facts = {key: {} for key in ("environment", "machine", "data", "split", "starts")}
    (folder / "run.json").write_text(json.dumps({**facts, "recipe": {**recipe, "seed": 5}}))
    said = sweep(out, "distil.temperature=2,4")
    assert said.exit_code == 2
    assert "seed: 5 -> 0" in said.output


def test_an_axis_given_twice_is_refused():
    with pytest.raises(RecipeError, match="given twice"):
        grid(DIGITS, ["seed=0,1"], (0, 1))
    with pytest.raises(RecipeError, match="given twice"):
        grid(DIGITS, ['"seed"=0,1', " distil . alpha=0.5"], (0, 1))
