"""Networks that were pruned leave the house with their final shapes, and surgery that a file makes up is refused."""

import json

import pytest
import torch
from saved_artifacts import SPEC, change_architecture, images, network, save_network
from torch import nn
from torchvision_ops import define_missing_operators

import attar
from attar.artifact import ArtifactError, export_onnx, export_pt2, load, verify
from attar.artifact.shape import shaped
from attar.models import BuilderSpec
from attar.prune import Pruner, describe

define_missing_operators()
STUBBORN = BuilderSpec("test_cut_networks:Stubborn")


@pytest.fixture
def cut_artifact(tmp_path):
    model = network()
    limit = sum(p.numel() for p in model.parameters()) // 2
    attar.prune(model, torch.randn(2, 1, 8, 8), attar.Budget(params="50%"), allocation="global")
    folder = save_network(tmp_path / "cut", model, surgery=describe(model, SPEC.build()), budget={"params": limit})
    return folder, model


def test_a_cut_network_comes_back(cut_artifact):
    folder, model = cut_artifact
    loaded = load(folder)
    assert {n: t.shape for n, t in loaded.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert loaded.artifact.counts["params"] == sum(p.numel() for p in model.parameters()) <= 6399 // 2
    assert loaded.layer1[0].conv1.out_channels == loaded.layer1[0].conv1.weight.shape[0]
    x = loaded.artifact.input.normalise(images())
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))
    assert verify(folder).passed
    json.loads((folder / "arch.json").read_text())


def test_the_reference_size_from_the_reference_width(tmp_path):
    torch.manual_seed(0)
    spec = BuilderSpec("resnet20")
    model = spec.build()
    attar.prune(model, torch.randn(2, 1, 28, 28), attar.Budget(params=100_000), allocation="even")
    folder = save_network(
        tmp_path / "reference",
        model,
        spec,
        surgery=describe(model, spec.build()),
        input_size=(1, 28, 28),
        golden=images(2, (1, 28, 28)),
        class_names=(),
        budget={"params": 100_000},
    )
    loaded = load(folder)
    assert loaded.artifact.counts["params"] == 99_603
    assert attar.summary(loaded, (1, 28, 28)).macs == loaded.artifact.counts["macs"] == 10_729_185


def test_a_cut_transformer_of_timm_comes_back(tmp_path):
    spec = BuilderSpec("timm:vit_tiny_patch16_224", {"depth": 2, "img_size": 32, "in_chans": 1, "classes": 3})
    torch.manual_seed(0)
    model = spec.build()
    size = (1, 32, 32)
    attar.prune(model, torch.randn(2, *size), attar.Budget(params="60%"))
    folder = save_network(
        tmp_path / "vit",
        model,
        spec,
        surgery=describe(model, spec.build()),
        input_size=size,
        golden=images(2, size),
        budget={},
    )
    assert verify(folder).passed
    assert load(folder).artifact.counts["params"] == sum(p.numel() for p in model.parameters())


class Stubborn(nn.Module):
    """A network whose code says how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.fc(x.reshape(x.shape[0], 32, 64).mean(2))


def test_a_network_that_runs_its_graph_comes_back_and_is_exported(tmp_path):
    torch.manual_seed(0)
    pruner = Pruner(Stubborn(), torch.randn(2, 1, 8, 8))
    pruner.step({"params": 2000})
    assert pruner.mode == "graph"
    arguments = {"class_names": (), "budget": {"params": 2000}, "extras": {}}
    written = describe(pruner.model, Stubborn())
    folder = save_network(tmp_path / "artifact", pruner.model, STUBBORN, surgery=written, **arguments)
    loaded = load(folder, allow=[STUBBORN.name])
    assert loaded.artifact.counts["params"] == sum(p.numel() for p in pruner.model.parameters()) <= 2000
    x = loaded.artifact.input.normalise(images())
    with torch.no_grad():
        assert torch.equal(loaded(x), pruner.model.eval()(x))
    assert verify(folder, allow=[STUBBORN.name]).passed
    assert export_onnx(folder, allow=[STUBBORN.name]).agrees
    assert export_pt2(folder, allow=[STUBBORN.name]).agrees


class Positions(nn.Module):
    """A network that adds a table which differs by channel and is not saved: its code makes it anew."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 2, stride=2)
        angles = torch.arange(16)[:, None] / 1000 ** (torch.arange(16) / 16)
        self.register_buffer("table", angles.sin()[None], persistent=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.patches(x).flatten(2).transpose(1, 2) + self.table).relu().mean(1))


POSITIONS = BuilderSpec("test_cut_networks:Positions")


@pytest.fixture
def cut_positions(tmp_path):
    torch.manual_seed(0)
    model = Positions()
    attar.prune(model, torch.randn(2, 1, 8, 8), attar.Budget(params="50%"))
    assert not torch.equal(model.table, Positions().table[..., : model.table.shape[2]])
    surgery, arguments = describe(model, Positions()), {"class_names": (), "extras": {}}
    return save_network(tmp_path / "positions", model, POSITIONS, surgery=surgery, **arguments), model


def test_a_buffer_that_is_not_saved_comes_back_as_it_was_cut(cut_positions):
    folder, model = cut_positions
    loaded = load(folder, allow=[POSITIONS.name])
    assert torch.equal(loaded.table, model.table)
    assert verify(folder, allow=[POSITIONS.name]).passed


def test_descriptions_without_what_is_left_still_load(cut_positions):
    folder, model = cut_positions
    surgery = load(folder, allow=[POSITIONS.name]).artifact.surgery
    change_architecture(folder, surgery={part: told for part, told in surgery.items() if part != "left"})
    assert load(folder, allow=[POSITIONS.name]).table.shape == model.table.shape


@pytest.mark.parametrize(
    "left",
    [
        3,
        {"table": None},
        {"table": [None, None]},
        {"table": [None, None, None]},
        {"table": [None, None, "0123456"]},
        {"table": [None, None, [0]]},
        {"table": [None, None, [True, 1, 2, 3, 4, 5, 6]]},
        {"table": [None, None, [0, 1, 2, 3, 4, 5, 16]]},
        {"table": [None, None, [-1, 1, 2, 3, 4, 5, 6]]},
        {"table": [None, None, [1, 0, 2, 3, 4, 5, 6]]},
        {"nowhere": [None]},
        {"fc.bias": [None]},
    ],
)
def test_made_up_places_of_a_buffer(cut_positions, left):
    folder, model = cut_positions
    assert model.table.shape == (1, 16, 7)
    surgery = load(folder, allow=[POSITIONS.name]).artifact.surgery
    change_architecture(folder, surgery={**surgery, "left": left})
    with pytest.raises(ArtifactError, match="surgery does not fit"):
        load(folder, allow=[POSITIONS.name])


class Reading(nn.Module):
    """Layers that read units along other dimensions, and weights that read none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.alone = nn.Conv2d(1, 16, 2, stride=2), nn.ConvTranspose2d(16, 16, 1, groups=16)
        self.up, self.fc = nn.ConvTranspose2d(16, 12, 2, stride=2), nn.Linear(12, 5)
        self.scale, self.places = nn.Parameter(torch.rand(1, 16, 1, 1)), nn.Embedding(4, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.places(torch.arange(4, device=x.device)).T.unsqueeze(2)
        return self.fc(self.up((self.alone(self.conv(x)) * self.scale + places).relu()).relu().mean((2, 3)))


def test_fresh_weights_of_a_cut_shape_are_scaled_by_the_units_that_they_read(tmp_path):
    torch.manual_seed(0)
    model, fresh, spec = Reading(), Reading(), BuilderSpec("test_cut_networks:Reading")
    attar.prune(model, torch.randn(2, 1, 8, 8), attar.Budget(params="50%"), allocation="even")
    surgery = describe(model, Reading())
    folder = save_network(tmp_path / "reading", model, spec, surgery=surgery, class_names=(), extras={})
    before = {name: tensor.clone() for name, tensor in fresh.named_parameters()}
    units, made = model.up.weight.shape[:2]
    assert units < 16 and made < 12
    factors = {"up.weight": (16 / units) ** 0.5, "fc.weight": (12 / made) ** 0.5}
    for name, tensor in shaped(fresh, folder).named_parameters():
        kept = before[name][tuple(slice(0, size) for size in tensor.shape)]
        assert torch.equal(tensor, kept * factors.get(name, 1)), name


class Noting(nn.Module):
    """A network whose code notes what it has done, as an ActNorm does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 3), nn.Linear(16, 5)
        self.initialized, self.calls, self.speed, self.last = False, 0, 0.5, [3, 8]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.initialized, self.calls, self.speed, self.last = True, self.calls + 1, 0.25, [2, 9]
        return self.fc(self.conv(x).relu().mean((2, 3)))


def test_what_the_code_notes_is_no_surgery(tmp_path):
    torch.manual_seed(0)
    model, spec = Noting(), BuilderSpec("test_cut_networks:Noting")
    attar.prune(model, torch.randn(2, 1, 8, 8), attar.Budget(params="60%"))
    model(torch.randn(2, 1, 8, 8))
    surgery = describe(model, Noting())
    assert surgery["attributes"].keys() == {"conv", "fc"}
    folder = save_network(tmp_path / "noting", model, spec, surgery=surgery, class_names=(), extras={})
    assert verify(folder, allow=[spec.name]).passed


@pytest.mark.parametrize(
    "surgery, words",
    [
        ({"tensors": {"fc.weight": [1 << 40, 8]}}, "fc.weight"),
        ({"tensors": {"fc.weight": [3]}}, "fc.weight"),
        ({"tensors": {"fc.weight": None}}, "fc.weight"),
        ({"tensors": {"nowhere": [3]}}, "nowhere"),
        ({"tensors": []}, "surgery does not fit"),
        ({"tensors": {}, "code": "import os"}, "code"),
        ({"attributes": {"fc": {"forward": 3}}}, "forward"),
        ({"attributes": {"fc": {"__class__": 3}}}, "__class__"),
        ({"attributes": {"fc": {"weight": 3}}}, "weight"),
        ({"attributes": {"fc": {"in_features": "os.system"}}}, "in_features"),
        ({"attributes": {"fc": {"in_features": 1 << 50}}}, "larger"),
        ({"attributes": {"avgpool": {"output_size": 1 << 20}}}, "larger"),
        ({"attributes": {"nowhere": {"x": 1}}}, "nowhere"),
        ({"attributes": {"fc": None}}, "surgery does not fit"),
        ({"attributes": [1]}, "surgery does not fit"),
        ({"tensors": {"fc.weight": [2, 8]}}, r"fc\.weight is float32 \[3, 8\]"),
    ],
)
def test_made_up_surgery(artifact, surgery, words):
    change_architecture(artifact, surgery=surgery)
    with pytest.raises(ArtifactError, match=words):
        load(artifact)
    assert not verify(artifact).passed
