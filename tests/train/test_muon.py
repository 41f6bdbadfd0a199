"""Muon's steps against the singular value decomposition and against torch's own Muon, which takes plain matrices."""

import pytest
import torch
from torch import nn

from attar.models import build
from attar.train.muon import SHARE, Muon, mixing, orthogonalised


@pytest.mark.parametrize("shape", [(1, 12, 40), (1, 40, 12), (3, 16, 16), (2, 8, 8)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    # Newton and Schulz's five iterations bring up what is above a hundredth or so of the largest
    u, _, vt = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    values = torch.linspace(0.05, 1, u.shape[-1], dtype=torch.float64).expand(u.shape[:-2] + u.shape[-1:])
    [made] = orthogonalised([(u * values.unsqueeze(-2)) @ vt])
    middle = u.mT @ made @ vt.mT
    diagonal = middle.diagonal(dim1=-2, dim2=-1)
    assert (middle - torch.diag_embed(diagonal)).abs().max() < 1e-12
    assert diagonal.min() > 0.6 and diagonal.max() < 1.25


def test_a_zero_gradient_makes_no_step():
    assert not orthogonalised([torch.zeros(1, 4, 6)])[0].any()


def test_steps_of_a_matrix_are_those_of_torch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30, bias=False), nn.Linear(30, 4, bias=False))
    matrix = net[0].weight.detach().clone().requires_grad_()
    rate, decay, momentum = 0.1, 5e-4, 0.9
    own = Muon(net, rate, momentum, decay, fused=None)
    torchs = torch.optim.Muon(
        [matrix], rate * SHARE, weight_decay=decay / (1 - momentum) / SHARE, momentum=momentum, nesterov=True
    )
    start = matrix.detach().clone()
    for _ in range(4):
        gradient = torch.randn_like(matrix)
        net[0].weight.grad, matrix.grad = gradient.clone(), gradient.clone()
        own.step()
        torchs.step()
    moved, expected = net[0].weight - start, matrix - start
    assert (moved - expected).norm() < 0.02 * expected.norm()  # torch iterates in bfloat16


def test_the_rest_takes_the_steps_of_sgd():
    torch.manual_seed(0)
    nets = [build("separable_resnet", widths=(4, 6), depths=(2, 1)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    own = Muon(nets[0], 0.1, 0.9, 5e-4, fused=None)
    sgd = torch.optim.SGD(nets[1].parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    mixed = {name for name, p in nets[0].named_parameters() if p in mixing(nets[0])}
    assert mixed == {name for name, _ in nets[0].named_parameters() if "pointwise" in name}
    for _ in range(3):
        for a, b in zip(nets[0].parameters(), nets[1].parameters()):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        own.step()
        sgd.step()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters()):
        assert torch.equal(a, b) != (name in mixed), name


def test_every_group_of_a_convolution_is_a_matrix_of_its_own():
    torch.manual_seed(0)
    grouped = nn.Sequential(nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.Linear(8, 2))
    halves = nn.Sequential(*(nn.Conv2d(3, 4, 3, bias=False) for _ in range(2)), nn.Linear(8, 2))
    optimisers = [Muon(net, 0.1, 0.9, 0.0, fused=None) for net in (grouped, halves)]
    weight = grouped[0].weight
    with torch.no_grad():
        for half, part in zip(halves, weight.chunk(2)):
            half.weight.copy_(part)
    weight.grad = torch.randn_like(weight)
    for half, part in zip(halves, weight.grad.chunk(2)):
        half.weight.grad = part.clone()
    for optimiser in optimisers:
        optimiser.step()
    torch.testing.assert_close(weight, torch.cat([half.weight for half in halves[:2]]))
