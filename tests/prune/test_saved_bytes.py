"""Budgets in bytes count the file that ships: engine, plan and artifact agree to the byte."""

import random

import pytest
import torch
from safetensors.torch import save

import attar
from attar.artifact.weights import own_tensors, to_bytes
from attar.prune import BudgetError, Pruner
from attar.prune.saved import DTYPES, saved_bytes, saved_file


def test_the_size_is_that_of_the_file_for_any_tensors():
    draw = random.Random(0)
    for _ in range(60):
        tensors = {
            "".join(draw.choice('ab.ü"z_9') for _ in range(draw.randint(1, 12))): torch.zeros(
                [draw.choice([1, 3, 9, 10, 11, 99, 100]) for _ in range(draw.randint(0, 3))],
                dtype=draw.choice(list(DTYPES)),
            )
            for _ in range(draw.randint(0, 12))
        }
        assert saved_file(tensors) == len(save(tensors))


def test_every_dtype_of_networks_is_known():
    assert all(
        getattr(torch, name) in DTYPES for name in ("float32", "float16", "bfloat16", "float64", "int64", "bool")
    )


@pytest.mark.parametrize("share", ["80%", "37%"])
def test_a_cut_network_fits_with_its_header_within_a_unit(share):
    torch.manual_seed(0)
    model, example = attar.build("resnet20", widths=(8, 12, 16)), torch.zeros(2, 1, 28, 28)
    pruner = Pruner(model, example, allocation="global")
    limit = pruner.limits(attar.Budget(bytes=share))["bytes"]
    cut = pruner.step(attar.Budget(bytes=share))
    size = len(to_bytes(own_tensors(model)))
    assert pruner.cost().bytes == pruner.costs.cost()["bytes"] == cut.after.bytes == saved_bytes(model) == size
    dearest = 4 * (16 * 9 * 2 + 16 * 2 + 4)  # a channel of the widest stage: its filters, its readers, its norm
    assert limit - dearest * 4 < size <= limit


def test_a_limit_just_below_the_tensors_alone_leaves_room_for_the_header():
    model = attar.build("resnet20", widths=(8, 12, 16))
    tensors = sum(tensor.nbytes for tensor in own_tensors(model).values())
    pruner = Pruner(model, torch.zeros(2, 1, 28, 28), allocation="global")
    assert pruner.cost().bytes > tensors
    pruner.step({"bytes": tensors})
    assert len(to_bytes(own_tensors(model))) <= tensors


def test_half_precision_counts_half():
    model = attar.build("resnet20", widths=(8, 12, 16)).half()
    assert saved_bytes(model) == len(to_bytes(own_tensors(model)))


class Scaled(torch.nn.Module):
    """Its code hard-codes a size, so that its captured graph takes over, and makes a constant, which is then saved."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(12, 16, 3, padding=1)
        self.fc = torch.nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x)).view(-1, 12, 64).unflatten(2, (8, 8))
        x = x * torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]])
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def test_constants_of_a_captured_graph_count():
    torch.manual_seed(0)
    model = Scaled()
    pruner = Pruner(model, torch.randn(2, 1, 8, 8), allocation="global")
    whole = pruner.cost().bytes
    for share in (0.8, 0.6):
        cut = pruner.step({"bytes": int(whole * share)})
    assert pruner.mode == "graph" and pruner.cost().bytes > pruner.costs.cost()["bytes"]
    assert cut.after.bytes == len(to_bytes(own_tensors(model))) <= int(whole * share)


class Grid(Scaled):
    """Its constant takes more room than a channel does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x)).view(-1, 12, 64).unflatten(2, (8, 8))
        x = x * torch.tensor([[1.0 + row * column for column in range(8)] for row in range(8)])
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def test_one_cut_leaves_room_for_the_constants_that_it_brings():
    torch.manual_seed(0)
    pruner = Pruner(Grid(), torch.randn(2, 1, 8, 8), allocation="global")
    limit = pruner.cost().bytes // 2
    cut = pruner.step({"bytes": limit})
    assert pruner.mode == "graph"
    assert cut.after.bytes == len(to_bytes(own_tensors(pruner.model))) <= limit


def test_constants_that_leave_no_room_are_named_before_anything_is_cut():
    torch.manual_seed(0)
    model = Grid()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, torch.randn(2, 1, 8, 8))
    limit = pruner.minimum().bytes + 100
    with pytest.raises(BudgetError, match="are constants of the captured graph") as refused:
        pruner.step({"bytes": limit})
    assert refused.value.smallest["bytes"] > limit
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_numbers_of_another_type_since_the_capture_keep_the_limit():
    torch.manual_seed(0)
    model = attar.build("resnet20", widths=(8, 12, 16))
    pruner = Pruner(model, torch.zeros(2, 1, 28, 28))
    model.half()
    limit = pruner.cost().bytes * 3 // 4
    assert 0.9 * limit < pruner.step({"bytes": limit}).after.bytes <= limit
