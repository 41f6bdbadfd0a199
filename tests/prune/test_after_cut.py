"""What a user does with a network after it was cut: copy, print, export, compile, spread over processes."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from awkward_networks import HardCodedSizes, HeadsByHand, HeadsFromInput, Net, SqueezeExcite, example
from torch import nn

from attar.prune import Pruner

NETWORKS = [SqueezeExcite, HeadsByHand, HardCodedSizes, HeadsFromInput]


def cut(build: type[Net]) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A cut network in eval mode, and an input."""
    torch.manual_seed(0)
    model = build()
    inputs = example(model)
    pruner = Pruner(model, inputs)
    pruner.step({"params": int(pruner.cost().params * 0.6)})
    return model.eval(), inputs


def named(build: type[Net]) -> str:
    return build.__name__


@pytest.mark.parametrize("build", NETWORKS, ids=named)
def test_copies_are_independent(build: type[Net]) -> None:
    model, inputs = cut(build)
    twin = copy.deepcopy(model)
    expected = model(*inputs)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(*inputs), expected) and not twin(*inputs).any()


def test_print_shows_true_shapes() -> None:
    model, _ = cut(HeadsByHand)
    assert f"out_features={model.qkv.weight.shape[0]}" in repr(model)
    assert f"Conv2d(3, {model.stem[0].weight.shape[0]}" in repr(model)


@pytest.mark.parametrize("build", NETWORKS, ids=named)
def test_exports(build: type[Net]) -> None:
    model, inputs = cut(build)
    program = torch.export.export(model, inputs)
    torch.testing.assert_close(program.module()(*inputs), model(*inputs))


@pytest.mark.parametrize("build", NETWORKS, ids=named)
def test_onnx(build: type[Net], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs = cut(build)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, inputs, dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    (answer,) = session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})
    np.testing.assert_allclose(answer, model(*inputs).detach().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", NETWORKS, ids=named)
def test_compiles(build: type[Net]) -> None:
    model, inputs = cut(build)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), model(*inputs))


def test_data_parallel(tmp_path: Path) -> None:
    model, inputs = cut(HeadsByHand)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model.train())
        parallel(*inputs).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_hooks_stay() -> None:
    torch.manual_seed(0)
    model = SqueezeExcite()
    seen: list[torch.Size] = []
    model.down.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    pruner = Pruner(model, example(model))
    seen.clear()
    pruner.step({"params": int(pruner.cost().params * 0.6)})
    seen.clear()
    model(*example(model))
    assert seen == [torch.Size([2, model.down.out_channels, 1, 1])]
