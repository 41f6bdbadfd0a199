"""Rounding as int8 does: close to what ONNX Runtime computes, gone without a trace, and it can be trained through."""

import torch
from torch import nn

import attar
from attar.train.fake_quant import fake_quantised, rounded_input, rounded_weight


def test_weights_and_inputs_take_the_values_of_int8():
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 2, 2) * torch.tensor([1.0, 10.0, 0.1, 0.0, 1e-3]).view(-1, 1, 1, 1)
    for row, exact in zip(rounded_weight(weight), weight):
        scale = exact.abs().max() / 64
        assert (row - exact).abs().max() <= scale / 2 * 1.001
        assert scale == 0 or torch.allclose(row / scale, (row / scale).round(), atol=1e-3)
    x = torch.rand(4, 3) * 6 + 2  # zero is among the values all the same
    rounded = rounded_input(x)
    assert (rounded - x).abs().max() <= x.max() / 255 / 2 * 1.001
    assert rounded_input(torch.zeros(3)).tolist() == [0, 0, 0]
    assert rounded_input(x.bfloat16()).dtype == torch.bfloat16


def test_gradients_pass_and_nothing_stays():
    torch.manual_seed(0)
    model = attar.build("resnet20", widths=(4, 4, 4)).eval()
    images = torch.randn(4, 1, 28, 28)
    before, state = model(images), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with fake_quantised(model) as layers:
        assert layers == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
        inside = model(images)
        inside.sum().backward()
        assert set(model.state_dict()) == set(state)
    assert not torch.equal(inside, before) and (inside - before).abs().max() < 0.2 * before.abs().max()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch.equal(model(images), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_an_error_inside_leaves_the_weights():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(5, 2))
    try:
        with fake_quantised(model):
            model(torch.zeros(1, 1, 8, 8))
    except RuntimeError:
        pass
    assert all("weight" not in vars(layer) for layer in model)
