"""Image classifiers of transformers, small, cut at random shares; all of them are in `scripts/coverage_matrix.py`."""

import pytest
import torch
from test_awkward import shares
from torchvision_ops import define_missing_operators
from transformers_networks import TRANSFORMERS

from attar.models import build
from attar.prune import Pruner, count_params

pytest.importorskip("transformers")
define_missing_operators()


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_cut(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = build(f"hf:{name}", classes=7, in_channels=3, **TRANSFORMERS[name]), torch.randn(2, 3, 64, 64)
    pruner = Pruner(model, inputs)
    cut = pruner.cut(shares(pruner, 1))
    assert cut.proof < 1e-10 and pruner.mode == "module"
    assert count_params(model) == cut.after.params < cut.before.params
    model.train()(inputs).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
