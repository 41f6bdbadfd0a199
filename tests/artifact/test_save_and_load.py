"""An artifact comes back as the same network, says what it costs, and is replaced whole or not at all."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from saved_artifacts import SPEC, images, network, save_network
from torch import nn
from torchvision_ops import define_missing_operators

import attar
from attar.artifact import ArtifactError, benchmark, evaluate, load, predict, save, verify
from attar.data import load_data
from attar.models import BuilderSpec, build

define_missing_operators()


def test_what_is_loaded_is_what_was_saved(artifact):
    model = network().eval()
    loaded = attar.load(artifact)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))
    description = loaded.artifact
    assert description.builder.to_dict() == SPEC.to_dict()
    assert (description.input.size, description.class_names) == ((1, 8, 8), ("a", "b", "c"))
    params = sum(p.numel() for p in model.parameters())
    assert description.counts["params"] == params
    assert description.counts["macs"] == attar.summary(model, (1, 8, 8)).macs
    assert description.counts["bytes"] == (artifact / "model.safetensors").stat().st_size
    x = (images().float() - 255 * 0.3) * (1 / (255 * 0.4))
    with torch.no_grad():
        assert torch.equal(loaded(description.input.normalise(images())), model(x))
    golden = load_file(artifact / "golden.safetensors")
    assert torch.equal(golden["images"], images())
    with torch.no_grad():
        assert torch.equal(golden["logits"], model(x))


def test_verify_passes_and_tells_what_it_saw(artifact):
    found = attar.verify(artifact)
    assert found.passed and bool(found)
    assert all(check.passed for check in found.checks)
    assert "golden batch" in str(found) and "FAIL" not in str(found)
    assert {"file report.json", "file plots/frontier.txt", "counts", "budget"} <= {check.name for check in found.checks}


def test_the_network_that_is_saved_is_not_changed(tmp_path):
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    save_network(tmp_path / "artifact", model)
    assert torch.equal(torch.get_rng_state(), random_state)
    load(tmp_path / "artifact")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))


def test_the_same_network_gives_the_same_files(tmp_path):
    one, other = (save_network(tmp_path / name, network()) for name in ("one", "other"))
    for name in ("model.safetensors", "arch.json", "golden.safetensors", "manifest.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_an_artifact_is_replaced_and_anything_else_is_not(artifact, tmp_path):
    changed = network()
    nn.init.zeros_(changed.fc.bias)
    save_network(artifact, changed, extras={})
    assert load(artifact).fc.bias.abs().sum() == 0
    assert not (artifact / "report.json").exists()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("keep me")
    with pytest.raises(ArtifactError, match="not overwritten"):
        save_network(notes, changed)
    assert (notes / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"budget": {"params": 1000}}, "exceeds its budget.*params of 1,000"),
        ({"budget": {"macs": 1000}}, "exceeds its budget.*macs"),
        ({"budget": {"weight": 1000}}, "weight"),
        ({"class_names": ("a", "b")}, "2 class names for 3 logits"),
        ({"golden": images(2, (1, 9, 9))}, "golden images"),
        ({"golden": images().float()}, "golden images"),
        ({"mean": (0.1, 0.2)}, "mean must be a number for each of 1"),
        ({"std": (0.0,)}, "std must be above 0"),
        ({"input_size": (8, 8)}, "input_size"),
        ({"extras": {"../escape": b""}}, "no name for a file"),
        ({"extras": {"manifest.json": b""}}, "attar's own"),
        ({"extras": {"arch.json": b""}}, "attar's own"),
        ({"spec": BuilderSpec("resnet20", {"widths": (4, 6, 9), "classes": 3})}, r"fc.weight|layer3"),
        ({"spec": BuilderSpec("resnet32", {"widths": (4, 6, 8), "classes": 3})}, "lacks"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_artifact_alone(artifact, changes, words):
    before = (artifact / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match=words):
        save_network(artifact, network(), **changes)
    assert (artifact / "manifest.json").read_bytes() == before
    assert verify(artifact).passed
    assert [path.name for path in artifact.parent.iterdir()] == ["artifact"]


def test_nan_weights_are_not_saved(tmp_path):
    model = network()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match=r"fc\.weight holds NaN"):
        save_network(tmp_path / "artifact", model)


class Tied(nn.Module):
    """A network of the user's own, with tied weights and a buffer that is not saved."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.linspace(1.0, 2.0, size), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x.flatten(1)) * self.scale)


def test_the_users_own_network_loads_only_with_his_leave(tmp_path):
    torch.manual_seed(0)
    model = Tied()
    arguments = {
        "input_size": (1, 2, 2),
        "mean": (0.0,),
        "std": (1.0,),
        "golden": images(3, (1, 2, 2)),
        "class_names": (),
        "extras": {},
    }
    folder = save_network(tmp_path / "artifact", model, None, **arguments)
    with pytest.raises(ArtifactError, match="pass builder="):
        load(folder)
    loaded = load(folder, builder=Tied)
    assert loaded.second.weight is loaded.first.weight
    assert torch.equal(loaded.second.bias, model.second.bias)
    assert loaded.artifact.counts["params"] == 16 + 4 + 4
    assert verify(folder, builder=Tied).passed and not verify(folder).passed

    foreign = BuilderSpec("test_save_and_load:Tied", {"size": 4})
    folder = save_network(tmp_path / "named", model, foreign, **arguments)
    with pytest.raises(ArtifactError, match="nothing was run"):
        load(folder)
    assert torch.equal(load(folder, allow=["test_save_and_load:Tied"]).first.weight, model.first.weight)


def test_a_network_that_holds_what_it_computed_last_is_saved(tmp_path):
    def make():
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(4, 3)))

    size, model = (1, 2, 2), make()
    folder = save_network(tmp_path / "artifact", model, None, input_size=size, golden=images(3, size), extras={})
    assert torch.equal(load(folder, builder=make)[1].weight_v, model[1].weight_v)


def test_libraries_networks_bring_no_foreign_weights(tmp_path):
    spec = BuilderSpec("timm:resnet10t", {"classes": 3, "in_channels": 1, "pretrained": False, "checkpoint_path": ""})
    torch.manual_seed(0)
    model = build("timm:resnet10t", classes=3, in_channels=1)
    folder = save_network(
        tmp_path / "artifact", model, spec, input_size=(1, 32, 32), golden=images(2, (1, 32, 32)), budget={}
    )
    assert load(folder).artifact.builder.arguments == {"classes": 3, "in_channels": 1}


def test_half_precision_comes_back_as_such(tmp_path):
    model = network().to(torch.bfloat16)
    folder = save_network(tmp_path / "artifact", model)
    assert load(folder).fc.weight.dtype == torch.bfloat16
    assert verify(folder).passed
    model.fc.float()
    with pytest.raises(ArtifactError, match="of one type"):
        save_network(tmp_path / "mixed", model)


def test_accuracy_on_real_images_and_probabilities(tmp_path):
    model = build("resnet20", widths=(4, 6, 8), classes=10)
    names = tuple(map(str, range(10)))
    folder = save_network(tmp_path / "digits", model, BuilderSpec("resnet20", {"widths": (4, 6, 8)}), class_names=names)
    data = load_data("digits")
    found = evaluate(load(folder), data.test_images, data.test_labels, batch=100)
    with torch.no_grad():
        logits = load(folder)((data.test_images.float() - 76.5) * (1 / 102))
    assert torch.equal(found.predictions, logits.argmax(1)) and found.images == 360
    assert found.correct == int((logits.argmax(1) == data.test_labels).sum()) and found.accuracy == found.correct / 360
    probabilities = predict(load(folder), data.test_images[:7], batch=3)
    assert torch.allclose(probabilities, logits[:7].softmax(1), atol=1e-6)
    with pytest.raises(ArtifactError, match="one label for each"):
        evaluate(load(folder), data.test_images, data.test_labels[:5])
    with pytest.raises(ArtifactError, match="no description"):
        predict(model, data.test_images)
    with pytest.raises(ArtifactError, match="images must be uint8"):
        predict(load(folder), data.test_images.float())


def test_loading_needs_no_recipe_no_training_code_and_no_extra(artifact):
    code = (
        "import sys\n"
        "for name in ('timm', 'torchvision', 'onnx', 'onnxruntime', 'sklearn', 'matplotlib', 'PIL', 'pytest'):\n"
        "    sys.modules[name] = None\n"
        "import attar; attar.load(sys.argv[1]); assert attar.verify(sys.argv[1]).passed;"
        "above = ('attar.pipeline', 'attar.train', 'attar.distil', 'attar.recipe', 'attar.cli', 'attar.report');"
        "print([name for name in sys.modules if name.startswith(above)])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(artifact)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_save_is_public_and_accepts_a_string(tmp_path):
    assert attar.save is save
    folder = attar.save(
        str(tmp_path / "artifact"), network(), SPEC, input_size=[1, 8, 8], mean=[0], std=[1], golden=images(1)
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "arch.json",
        "golden.safetensors",
        "manifest.json",
        "model.safetensors",
    ]


def test_memory_is_measured_from_small_batches_to_large_ones(artifact, monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark, "seconds_per_batch", lambda run, images, *_: seen.append(len(images)) or 1.0)
    order = {"path": str(artifact), "view": None, "batches": [9, 1, 9], "threads": 1, "seconds": 0, "allow": []}
    rows = json.loads(benchmark.measure(json.dumps(order)))
    assert seen == [1, 9] and [row["batch"] for row in rows] == [9, 1, 9]
    assert rows[0]["peak_bytes"] >= rows[1]["peak_bytes"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_any_precision_take_what_normalise_gives(tmp_path, dtype):
    loaded = load(save_network(tmp_path / "artifact", network().to(dtype)))
    with torch.no_grad():
        logits = loaded(loaded.artifact.input.normalise(images()))
    assert logits.dtype == dtype
    assert torch.allclose(logits.float(), load_file(tmp_path / "artifact/golden.safetensors")["logits"])
