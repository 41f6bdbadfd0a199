"""Adversarial networks, cut at random shares: exact, counted exactly, trained, written down and loaded anew."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from adversarial_networks import ADVERSARIAL
from awkward_networks import Net, example
from harder_networks import HARDER
from test_awkward import answers, assert_equals_zeroed, jitter, shares
from torch import nn

from attar.prune import CaptureError, Pruner, count_macs, count_params, describe, prune, reshape
from attar.recipe import Budget

MIXING = {
    "channel_attention",
    "class_token",
    "einsum_windows",
    "experts",
    "figures_over_units",
    "filled_by_hand",
    "joined_biases",
    "kernel_for_a_sample",
    "norm_in_rows",
    "shares_in_rows",
    "normed_queries",
    "shared_heads_by_option",
    "shared_heads_expanded",
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


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    features: torch.Tensor


class Labelled(Net):
    def forward(self, image: torch.Tensor) -> Answer:  # type: ignore[override]
        x = F.relu(self.stem(image)).mean((2, 3))
        return Answer(self.head(x), x.sum(1))


NETWORKS = {**ADVERSARIAL, **HARDER}


@pytest.mark.parametrize("name", NETWORKS)
def test_cut(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
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
    fresh = NETWORKS[name]()
    loaded = reshape(fresh, json.loads(json.dumps(describe(model, copy.deepcopy(fresh)))))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(answers(loaded.eval(), inputs), answers(model.eval(), inputs))
    assert answers(model, tuple(torch.cat([x, x[:1]]) for x in inputs)).numel() == 15


def test_trains_while_the_graph_of_an_earlier_forward_is_alive() -> None:
    model = HARDER["uneven_use"]()
    inputs = example(model)
    alive = model(*inputs)
    pruner = Pruner(model, inputs)
    pruner.cut(shares(pruner, 1))
    model(*inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert alive.grad_fn is not None


def test_answers_may_be_dataclasses() -> None:
    model = Labelled()
    pruner = Pruner(model, torch.randn(2, 3, 8, 8))
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10
    assert isinstance(model(torch.randn(2, 3, 8, 8)), Answer)


def test_hooks_on_the_answer_run_once_where_a_graph_runs() -> None:
    model = HARDER["shuffled_by_index"]()
    model.register_forward_hook(lambda module, inputs, output: {"twice": output * 2})
    inputs = example(model)
    pruner = Pruner(model, inputs)
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10 and pruner.mode == "graph"
    answer = model.eval()(*inputs)
    torch.testing.assert_close(answer["twice"], model.forward(*inputs) * 2)


def test_a_size_that_depends_on_numbers_is_refused_by_name() -> None:
    class Picking(Net):
        def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return x * x[x > 0].mean()

    with pytest.raises(CaptureError, match="index"):
        Pruner(Picking(), torch.randn(2, 3, 8, 8))


def holding() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 1)), nn.ReLU(), nn.Flatten(1), nn.Linear(512, 5))


def test_a_copy_of_a_network_that_holds_what_it_computed_last_is_cut() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1), *holding())
    before = count_params(model)
    pruned = prune(model, torch.randn(2, 3, 8, 8), Budget(params="99%"), in_place=False)
    assert count_params(pruned.model) < count_params(model) == before


def test_a_network_that_holds_what_it_computed_last_is_cut() -> None:
    model = holding()
    pruner = Pruner(model, torch.randn(2, 3, 8, 8))
    assert pruner.cut(shares(pruner, 1)).proof < 1e-10
    model(torch.randn(2, 3, 8, 8)).sum().backward()
