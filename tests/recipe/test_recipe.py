"""Recipes: what is accepted, and how what is not is answered."""

import subprocess
import sys
from pathlib import Path

import pytest

from attar.recipe import RecipeError, changed, check_recipe, difference, load_recipe, recipe_toml

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))

GOOD = """
name = "x"
[data]
source = "digits"
held_out = 200
[teacher]
model = "resnet20"
[teacher.train]
epochs = 1
[student]
model = "resnet20"
[distil]
temperature = 4
[distil.train]
epochs = 1
[prune]
importance = "group_norm"
[prune.budget]
params = 100_000
[prune.train]
epochs = 0.5
"""


def load(tmp_path: Path, text: str, *overrides: str):
    file = tmp_path / "r.toml"
    file.write_text(text)
    return load_recipe(file, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load(tmp_path, text, *overrides)
    return str(error.value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_named_after_their_file(path):
    assert load_recipe(path).name == path.stem


def test_reference_recipe_is_the_reference():
    recipe = load_recipe(ROOT / "recipes" / "fashion-mnist-100k.toml")
    assert (recipe.teacher.model, recipe.student.model) == ("resnet50", "resnet20")
    assert (recipe.prune.steps, recipe.prune.budget.params, recipe.prune.allocation) == (30, 100_000, "even")


def test_defaults_fill_what_is_not_said(tmp_path):
    recipe = load(tmp_path, GOOD)
    assert recipe.prune.steps == 30
    assert recipe.distil.alpha == 0.9
    assert recipe.augment.erase_area == (0.02, 0.4)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("temperature = 4", "temprature = 4", ["r.toml:13", "distil.temprature", "did you mean 'temperature'?", "alpha"]),
        ("temperature = 4", "temperature = -1", ["r.toml:13", "distil.temperature = -1", "greater than 0"]),
        ("temperature = 4", "temperature = 'hot'", ["r.toml:13", "distil.temperature = 'hot'", "should be a number"]),
        ("params = 100_000", "parms = 100_000", ["r.toml:18", "no such key 'parms'", "did you mean 'params'?", "macs"]),
        ("params = 100_000", "params = 'few'", ["prune.budget", "params='few'", "25%"]),
        ("params = 100_000", "params = true", ["prune.budget", "True"]),
        ("[student]\nmodel = \"resnet20\"", "", ["student", "must be given"]),
        ("epochs = 0.5", "epochs = 0.5\noptimiser = 'sdg'", ["prune.train.optimiser", "did you mean 'sgd'?", "adamw"]),
        ("epochs = 0.5", "epochs = 0.5\noptimiser = 'muon'\nmomentum = 1", ["prune.train", "momentum = 1", "0.9"]),
        (
            "epochs = 0.5", "epochs = 0.5\n[prune.sparse.train]\nepochs = 1\noptimiser = 'muon'",
            ["prune.sparse", "train.optimiser", "muon", "give", "sgd"],
        ),
        ("epochs = 0.5", "epochs = 0.5\nwarmup = 1", ["prune.train", "warmup = 1", "0.5"]),
        ("[teacher]\nmodel = \"resnet20\"\n[teacher.train]\nepochs = 1", "", ["alpha", "teacher"]),
        ("[teacher.train]\nepochs = 1", "", ["teacher", "weights", "train"]),
        ("[prune]", "[prune]\nallocation = 'evn'", ["prune.allocation", "did you mean 'even'?", "isomorphic"]),
        ("held_out = 200", "held_out = 2.5", ["r.toml:5", "data.held_out = 2.5", "whole number"]),
        ("name = \"x\"", "name = x", ["not valid TOML", "line 2"]),
    ],
)  # fmt: skip
def test_faults_are_named_with_place_and_way_out(tmp_path, old, new, expected):
    assert old in GOOD
    said = message(tmp_path, GOOD.replace(old, new))
    for part in expected:
        assert part in said, said


def test_every_fault_is_listed_at_once(tmp_path):
    said = message(
        tmp_path, GOOD.replace("temperature = 4", "temprature = 4").replace("held_out = 200", "held_out = -1")
    )
    assert len(said.splitlines()) == 2


def test_a_missing_file_names_those_that_are_there(tmp_path):
    (tmp_path / "quick.toml").write_text("")
    with pytest.raises(RecipeError, match=r"no recipe at .*quik\.toml; there is .*quick\.toml"):
        load_recipe(tmp_path / "quik.toml")


def test_overrides(tmp_path):
    recipe = load(
        tmp_path, GOOD, "distil.temperature=2", "prune.budget.params='50%'", "student.arguments.widths=[4,8,16]",
        "compute.device=cpu", "augment.flip=0",
    )  # fmt: skip
    assert recipe.distil.temperature == 2
    assert recipe.prune.budget.params == "50%"
    assert recipe.student.arguments == {"widths": [4, 8, 16]}
    assert recipe.compute.device == "cpu"
    assert recipe.augment.flip == 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distil.temperature", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("# x=3", "no such key '# x'"),
        ("name.first=1", "name is a value, not a table"),
        ("name=", "name = '': a run's name is that of its folder: not empty"),
        ("name=..", "name = '..': a run's name"),
        ("name=../esc", "name = '../esc': a run's name"),
        ("distil.mixup=2000", "distil.mixup = 2000: should be between 0.01 and 100, or 0, which mixes nothing"),
        ("distil.mixup=-1", "distil.mixup = -1: should be between"),
        ("distil.temprature=3", "did you mean 'temperature'?"),
        (
            "augment.erase_area.2=1",
            "augment.erase_area is a list and has no entry '2'; its entries are augment.erase_area.0 to",
        ),
        ("augment.erase_area.x=1", "augment.erase_area is a list and has no entry 'x'"),
        ("augment.erase_area.0.x=1", "augment.erase_area.0 is a value, not a table"),
        ("prune.protect.0=conv1", "prune.protect is a list and has no entry '0'; it has none"),
    ],
)
def test_bad_overrides(tmp_path, override, expected):
    with pytest.raises(RecipeError) as error:
        changed(load(tmp_path, GOOD), [override])
    assert expected in str(error.value)
    if "erase_area" not in override and "protect" not in override:  # which GOOD does not mention
        assert expected in message(tmp_path, GOOD, override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prune.floors='2'", "prune.floors = '2': should be a number, or a table of numbers"),
        ("prune.floors.conv1='x'", "prune.floors: has conv1 = 'x': a floor is a number"),
        ("prune.protect=conv1", "prune.protect = 'conv1': should be a list"),
        ("prune.budget='50%'", "prune.budget = '50%': should be a table"),
        ("prune.steps=1.5", "prune.steps = 1.5: should be a whole number"),
        ("export.onnx=True", "export.onnx = 'True': should be true or false"),
        ("teacher.members={}", "teacher.members: should be a list of tables: write [[teacher.members]]"),
    ],
)
def test_values_of_another_type_are_told_in_the_words_of_toml(tmp_path, override, expected):
    (said,) = message(tmp_path, GOOD, override).splitlines()
    assert f"{expected} (" in said and "given on top" in said


def test_a_fault_of_an_override_is_not_put_down_to_the_file(tmp_path):
    said = message(tmp_path, GOOD, "distil.temperature=-1")
    assert said.startswith("distil.temperature = -1: ") and said.endswith(f"(given on top of {tmp_path / 'r.toml'})")
    said = message(tmp_path, GOOD, "data.mean=[123.0]", "data.std=[50.0]")
    assert "mean has 123" in said and said.endswith("(with data.mean, data.std given on top)")


def test_faults_in_lists_of_tables_have_their_lines(tmp_path):
    member = '[[teacher.members]]\nmodel = "resnet20"\n[teacher.members.train]\nepochs = {}\n'
    text = GOOD.replace(
        '[teacher]\nmodel = "resnet20"\n[teacher.train]\nepochs = 1\n', member.format(1) + member.format(-1)
    )
    line = text.splitlines().index("epochs = -1") + 1
    assert message(tmp_path, text).startswith(f"{tmp_path / 'r.toml'}:{line}: teacher.members.1.train.epochs = -1: ")
    assert message(tmp_path, text, "teacher.members.1.train.epochs=-2").startswith(
        "teacher.members.1.train.epochs = -2: "
    )


def test_keys_in_quotes_keep_their_dots(tmp_path):
    assert load(tmp_path, GOOD, 'prune.floors."layer1.0.conv1.weight"=2').prune.floors == {"layer1.0.conv1.weight": 2}
    assert load(tmp_path, GOOD, "prune.floors.conv*=2").prune.floors == {"conv*": 2}


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    assert load(tmp_path, "\ufeff" + GOOD) == load(tmp_path, GOOD)


def test_overrides_of_a_checked_recipe_reach_tables_that_are_absent_and_entries_of_lists(tmp_path):
    members = "\n".join(f'[[teacher.members]]\nmodel = "resnet{n}"\ntrain = {{ epochs = 3 }}' for n in (20, 32))
    text = GOOD.replace('[teacher]\nmodel = "resnet20"\n[teacher.train]\nepochs = 1\n', f"[teacher]\n{members}\n")
    overrides = ["prune.sparse.train.epochs=1", "prune.floors.conv1=4", "prune.final.epochs=2", "augment.erase_area.1=0.5",
                 "teacher.members.0.train.epochs=1", "teacher.members.1.model=resnet8"]  # fmt: skip
    recipe = changed(load(tmp_path, text), overrides)
    assert recipe.prune.sparse.train.epochs == 1
    assert recipe.prune.floors == {"conv1": 4}
    assert recipe.prune.final.epochs == 2
    assert recipe.augment.erase_area == (0.02, 0.5)
    assert [(member.model, member.train.epochs) for member in recipe.teacher.members] == [
        ("resnet20", 1),
        ("resnet8", 3),
    ]
    assert load(tmp_path, text, "teacher.members.0.train.epochs=1").teacher.members[0].train.epochs == 1


def test_difference_names_what_changed(tmp_path):
    old = load(tmp_path, GOOD).model_dump(mode="json")
    new = load(tmp_path, GOOD, "distil.temperature=2", "prune.steps=3").model_dump(mode="json")
    assert difference(old, new) == ["distil.temperature: 4.0 -> 2.0", "prune.steps: 30 -> 3"]


def test_plain_dictionaries_are_checked_too():
    with pytest.raises(RecipeError, match="student: must be given"):
        check_recipe({"name": "x", "data": {"source": "digits"}, "distil": {"alpha": 0, "train": {"epochs": 1}}})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_again_from_what_a_run_writes_of_it(path):
    recipe = load_recipe(path)
    assert check_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("whole", [True, False])
def test_a_teacher_with_members_is_read_again_from_toml(tmp_path, whole):
    members = 'members = [{ model = "resnet20", weights = "a.pt" }, { model = "cnn5", train = { epochs = 1 } }]'
    recipe = load(tmp_path, GOOD.replace('model = "resnet20"\n[teacher.train]\nepochs = 1', members))
    assert len(recipe.teacher.members) == 2
    assert load(tmp_path, recipe_toml(recipe, whole=whole)) == recipe


def test_any_text_is_read_again_and_what_toml_cannot_say_is_refused(tmp_path):
    values = load(tmp_path, GOOD).model_dump(mode="json")
    values["student"]["arguments"] = {'a"\\\x7f': 'a"\\\x7f\n\u2028', "b": ["\x7f"]}
    recipe = check_recipe(values)
    assert load(tmp_path, recipe_toml(recipe)) == recipe
    values["student"]["arguments"] = {"a": None, "b": [1, [None]]}
    with pytest.raises(RecipeError, match=r"student\.arguments.*a list holds None"):
        check_recipe(values)


def test_recipes_and_help_do_without_torch():
    code = "import attar, attar.recipe, sys; attar.recipe.load_recipe(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(RECIPES[0])], check=True)
    code = (
        "import sys\nfrom attar.cli import main\nsys.argv = ['attar', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
