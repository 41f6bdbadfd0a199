"""Records carry everything but the weights and this machine's paths; RESULTS.md says what they say, and nothing else."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import attar

from attar.pipeline.record import without_places

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # for the script, which imports its neighbour


def results(*arguments: object) -> str:
    """Run the script; returns what it ended with, empty where all is well."""
    script = importlib.import_module("results")
    before, sys.argv = sys.argv, ["results.py", *map(str, arguments)]
    try:
        script.main()
    except SystemExit as end:
        return str(end.code)
    finally:
        sys.argv = before
    return ""


@pytest.fixture
def records(finished_runs, tmp_path):
    folder = tmp_path / "records"
    for name in ("a", "b"):
        said = attar("record", finished_runs / name, folder)
        assert said.exit_code == 0, said.output
    return folder


def test_a_record_holds_what_was_found(records, finished_runs):
    record = json.loads((records / "digits/1/record.json").read_text())
    report = json.loads((finished_runs / "b/artifact/report.json").read_text())
    assert record["recipe"]["seed"] == 1
    for key in (
        "test",
        "test_read",
        "cost",
        "frontier",
        "machine",
        "environment",
        "split",
        "images_seen",
        "seconds",
        "peak_memory",
    ):
        assert record[key] == report[key], key
    predictions = json.loads((records / "digits/1/predictions.json").read_text())
    assert predictions == json.loads((finished_runs / "b/test.json").read_text())["predictions"]
    curves = [json.loads(line) for line in (records / "digits/1/metrics.jsonl").read_text().splitlines()]
    assert curves == report["learning_curves"]
    assert not list(records.rglob("*.safetensors"))


def test_paths_of_this_machine_stay_here():
    told = {
        "command": "attar run /home/me/x/a.toml --out=/tmp/y",
        "where": ["npz:/data/x.npz", "~/cache/t10k", "runs/a/b"],
    }
    assert without_places(told) == {
        "command": "attar run a.toml --out=y",
        "where": ["npz:x.npz", "t10k", "runs/a/b"],
    }
    assert without_places("from https://example.org/a/b, 1 / 2") == "from https://example.org/a/b, 1 / 2"


@pytest.mark.parametrize(
    ("key", "text", "kept"),
    [
        ("command", "attar run '/home/jane doe/secret proj/r.toml' --out /data/x", "attar run r.toml --out x"),
        ("command", "attar run r.toml '--out=/home/jane doe/my run/'", "attar run r.toml '--out=my run/'"),
        ("command", "attar run r.toml 'data.source=npz:/home/j d/x.npz'", "attar run r.toml data.source=npz:x.npz"),
        (
            "command",
            """attar run r.toml 'student.weights="/home/j d/w"'""",
            """attar run r.toml 'student.weights="w"'""",
        ),
        ("command", "attar run '~jane/secret proj/r.toml'", "attar run r.toml"),
        ("starts", "attar run '/home/jane doe/r.toml'", "attar run r.toml"),
        (
            "starts",
            "attar run r.toml a.b=[4, 6] --out /data/x",
            "attar run r.toml a.b=[4, 6] --out x",
        ),  # an older run's
        ("recipe", "folder:/home/jane/My Pictures/train", "folder:train"),
        ("recipe", "~/my weights/w.pt", "w.pt"),
        ("recipe", "runs/my runs/b", "runs/my runs/b"),
        ("data", "folder /home/jane/My Pictures", "folder My Pictures"),
        ("data", "cache /home/jane doe/fashion, http://example.org/a/b", "cache fashion, http://example.org/a/b"),
        ("overrides", "student.weights=/home/jane doe/w.pt", "student.weights=w.pt"),
        ("error", "student.weights = '/home/jane doe/w.pt': see /tmp/log", "student.weights = 'w.pt': see log"),
    ],
)
def test_paths_with_spaces_stay_here_too(key, text, kept):
    assert without_places({key: text}) == {key: kept}
    assert without_places({key: [text]}) == {key: [kept]}


def test_committed_records_hold_no_places():
    for file in (Path(__file__).parents[2] / "records").rglob("*.json"):
        facts = json.loads(file.read_text())
        assert without_places(facts) == facts, file


def test_records_compare_like_their_runs(records, finished_runs):
    runs = attar("compare", finished_runs / "a", finished_runs / "b").output.splitlines()
    kept = attar("compare", records / "digits/0", records / "digits/1").output.splitlines()
    figures = [[line.split("|")[2:] for line in lines if " % | [" in line] for lines in (runs, kept)]
    assert len(figures[0]) == 2
    assert figures[0] == figures[1]


def test_what_is_no_record_is_refused(records, finished_runs, tmp_path):
    said = attar("record", tmp_path, records)
    assert said.exit_code == 2
    assert "is no finished run" in said.output
    other = tmp_path / "other"
    shutil.copytree(finished_runs / "a", other)
    report = json.loads((other / "artifact/report.json").read_text())
    (other / "artifact/report.json").write_text(json.dumps({**report, "test_read": "2000-01-01T00:00:00Z"}))
    said = attar("record", other, records)
    assert said.exit_code == 2
    assert "another run of this recipe and seed" in said.output
    assert attar("record", finished_runs / "a", records).exit_code == 0


def test_recipes_of_one_shape_stand_side_by_side_by_length(records, tmp_path):
    page = tmp_path / "RESULTS.md"
    results("--records", records, "--out", page)
    assert "Length of the schedule" not in page.read_text()
    longer = records / "longer/0"
    shutil.copytree(records / "digits/0", longer)
    facts = json.loads((longer / "record.json").read_text())
    facts["name"], facts["images_seen"]["prune"] = "longer", facts["images_seen"]["prune"] + 1000
    (longer / "record.json").write_text(json.dumps(facts))
    assert not results("--records", records, "--out", page)
    rows = page.read_text().partition("Length of the schedule")[2].splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row.startswith("| ")][1:]
    assert [row[:2] for row in cells] == [["digits", "2"], ["longer", "1"]]
    short, long = (int(row[2].replace(",", "")) for row in cells)
    assert long == short + 1000


def test_results_are_the_records(records, tmp_path):
    page = tmp_path / "RESULTS.md"
    assert "is not what" in results("--records", records, "--out", page, "--check")
    assert not results("--records", records, "--out", page)
    text = page.read_text()
    shares = []
    for seed in (0, 1):
        test = json.loads((records / f"digits/{seed}/record.json").read_text())["test"]["student"]
        shares.append(test["accuracy"])
        assert f"{100 * test['accuracy']:.2f} %" in text
        assert f"{test['hits']:,} of 360" in text
    assert f"{50 * sum(shares):.2f} %" in text
    assert "No controls are recorded." in text
    assert not results("--records", records, "--out", page, "--check")
    picture = tmp_path / "docs/results.svg"
    drawn = picture.read_text()
    ElementTree.fromstring(drawn)
    assert drawn.count("<circle") >= 2 and ">digits</text>" in drawn
    picture.write_text(drawn.replace("digits", "digit"))
    assert "results.svg is not what" in results("--records", records, "--out", page, "--check")
    picture.write_text(drawn)
    page.write_text(text.replace("digits", "digit"))
    assert "is not what" in results("--records", records, "--out", page, "--check")


def test_the_readme_beside_has_the_table(records, tmp_path):
    page, readme = tmp_path / "RESULTS.md", tmp_path / "README.md"
    readme.write_text("# digits\n")
    assert "has lost the place of its table" in results("--records", records, "--out", page)
    assert readme.read_text() == "# digits\n" and not page.exists()
    old = "# digits\n\n<!-- from scripts/results.py -->\n\nold\n\n<!-- end -->\n\nThat is all.\n"
    readme.write_text(old)
    assert not results("--records", records, "--out", page)
    made = readme.read_text()
    readme.write_text(old)
    assert "README.md is not what" in results("--records", records, "--out", page, "--check")
    readme.write_text(made)
    table = page.read_text().partition("## All recipes")[2].partition("\n\n## ")[0].strip().rpartition("\n\n")[2]
    assert table.startswith("| recipe |") and "not yet" in table
    lines = ["# digits", "<!-- from scripts/results.py -->", table, "<!-- end -->", "That is all.\n"]
    assert readme.read_text() == "\n\n".join(lines)
    assert not results("--records", records, "--out", page, "--check")


def test_every_two_recipes_are_compared(records, tmp_path):
    page = tmp_path / "RESULTS.md"
    assert not results("--records", records, "--out", page)
    assert "Recipes against each other" not in page.read_text()
    shutil.copytree(records / "digits/0", other := records / "worse/0")
    facts, said = (json.loads((other / f"{name}.json").read_text()) for name in ("record", "predictions"))
    spoiled = [i for i, (label, own) in enumerate(zip(said["labels"], said["student"])) if label == own][:9]
    for i in spoiled:
        said["student"][i] = (said["labels"][i] + 1) % 10
    facts["name"], facts["test"]["student"]["hits"] = "worse", facts["test"]["student"]["hits"] - 9
    (other / "record.json").write_text(json.dumps(facts))
    (other / "predictions.json").write_text(json.dumps(said))
    assert not results("--records", records, "--out", page)
    # of nine answers that differ one way, mid-p is 2 * (1/512 - 1/1024)
    assert re.search(r"\| worse \| [\d.]+ % \| -2\.50, p = 0\.002 \|", page.read_text())


def test_controls_stand_beside_the_runs_of_their_seeds(records, tmp_path):
    folder = records / "digits/1"
    facts, said = (json.loads((folder / f"{name}.json").read_text()) for name in ("record", "predictions"))
    name, labels = "control without teacher", said["labels"]
    said[name] = labels[:-36] + [(label + 1) % 10 for label in labels[-36:]]
    facts["controls"] = [{"name": name, "test": {"hits": len(labels) - 36, "n": len(labels)}}]
    (folder / "record.json").write_text(json.dumps(facts))
    (folder / "predictions.json").write_text(json.dumps(said))
    page = tmp_path / "RESULTS.md"
    assert not results("--records", records, "--out", page)
    ahead = 100 * (facts["test"]["student"]["accuracy"] - 0.9)
    assert re.search(
        rf"\| not yet \| 90\.00 % \({re.escape(f'{ahead:+.2f}')}, p = [\d.e-]+, seed 1\) \|", page.read_text()
    )


def test_a_record_at_odds_with_its_predictions_is_refused(records, tmp_path):
    file = records / "digits/0/record.json"
    record = json.loads(file.read_text())
    record["test"]["student"]["hits"] += 1
    file.write_text(json.dumps(record))
    assert "its predictions do not" in results("--records", records, "--out", tmp_path / "RESULTS.md")
    assert not (tmp_path / "RESULTS.md").exists()


def test_the_peak_of_memory_is_stated(finished_runs):
    facts = json.loads((finished_runs / "a" / "artifact" / "report.json").read_text())
    peaks = [facts["peak_memory"][stage]["process"] for stage in ("teach", "distil", "prune")]
    assert peaks == sorted(peaks)  # of the process since it began
    assert peaks[0] > 50e6  # torch alone takes more
    assert re.search(
        r"peak memory \| teach [\d,]+ MB, distil [\d,]+ MB, prune", (finished_runs / "a/artifact/report.md").read_text()
    )


def test_training_for_int8_is_not_the_networks_own(tmp_path):
    script = importlib.import_module("results")
    lines = [{"stage": "prune", "held_out": 0.9}, {"stage": "int8", "held_out": 0.8}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert script.last_epoch(tmp_path / "metrics.jsonl") == lines[0]
    assert script.images_seen({"images_seen": {"teach": 9, "distil": 2, "prune": 3, "int8": 4}}) == 5
