"""A dozen families of torchvision and timm, small, cut at random shares: exact, fewer parameters, trains, loads anew.

The whole matrix is `scripts/coverage_matrix.py`; this is the part that fits into every test run.
"""

import functools
from collections.abc import Callable

import pytest
import torch
from test_awkward import shares
from torchvision_ops import define_missing_operators

define_missing_operators()

import timm  # noqa: E402
import torchvision.models as tv  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models.convnext import CNBlockConfig  # noqa: E402

from attar.prune import Pruner, count_params, describe, reshape  # noqa: E402


def timm_model(name: str, **options: object) -> Callable[[], nn.Module]:
    return functools.partial(timm.create_model, name, pretrained=False, num_classes=7, **options)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "densenet": lambda: tv.DenseNet(8, (2, 2), 16, num_classes=7),
    "shufflenet": functools.partial(tv.shufflenet_v2_x0_5, num_classes=7),
    "convnext": lambda: tv.ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=7),
    "swin": lambda: tv.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=7),
    "vit": lambda: tv.VisionTransformer(32, 8, 2, 3, 48, 64, num_classes=7),
    "timm_vit": timm_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3),
    "xcit": timm_model("xcit_nano_12_p16_224", img_size=32, depth=2, embed_dim=32, num_heads=2),
    "mixer": lambda: timm.models.mlp_mixer.MlpMixer(7, 32, patch_size=8, num_blocks=2, embed_dim=32),
    "cait": timm_model("cait_xxs24_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    torch.manual_seed(0)
    model, example = FAMILIES[family](), torch.randn(2, 3, 32, 32)
    whole = count_params(model)
    pruner = Pruner(model, example)
    cut = pruner.cut(shares(pruner, 3))
    assert 0 < cut.proof < 1e-13  # rounding, and not taken off the figure
    assert count_params(model) == pruner.cost().params < 0.9 * whole
    model.train()
    model(example).square().mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    loaded = reshape(FAMILIES[family](), describe(model, FAMILIES[family]()))
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded.eval()(example), model.eval()(example))
