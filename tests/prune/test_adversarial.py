"""Adversarial networks, cut at random shares: exact, counted exactly, trained, written down and loaded anew."""

import copy
import json

import pytest
import torch
from adversarial_networks import ADVERSARIAL
from awkward_networks import example
from test_awkward import answers, assert_equals_zeroed, jitter, shares

from attar.prune import Pruner, count_macs, count_params, describe, reshape

MIXING = {
    "channel_attention",
    "class_token",
    "einsum_windows",
    "norm_of_everything",
    "scaled_by_a_weight",
    "softmax_gate",
    "spatial_attention",
    "standardised",
    "torch_attention",
    "weight_norm",
    "written_in_place",
}
"""Networks in which units are mixed, or written over: zero weights alone do not make them vanish."""


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_cut(name: str) -> None:
    torch.manual_seed(0)
    model = ADVERSARIAL[name]()
    jitter(model)
    inputs = example(model)
    masked = copy.deepcopy(model).double().eval()
    pruner = Pruner(model, inputs)
    cut = pruner.cut(shares(pruner, 1))
    assert cut.proof < 1e-10 and cut.removed
    assert count_params(model) == cut.after.params < cut.before.params
    assert count_macs(model, inputs[0][:1]) == cut.after.macs
    if name not in MIXING:
        assert_equals_zeroed(model, masked, cut, inputs)
    model.train()(*inputs).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    fresh = ADVERSARIAL[name]()
    loaded = reshape(fresh, json.loads(json.dumps(describe(model, copy.deepcopy(fresh)))))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(answers(loaded.eval(), inputs), answers(model.eval(), inputs))
