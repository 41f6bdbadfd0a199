"""attar against Torch-Pruning: capture and 30 steps of an even cut to 50 % of the channels, in one process, one thread.

    python benchmarks/prune_vs_torch_pruning.py                   # all five networks, three repetitions each
    python benchmarks/prune_vs_torch_pruning.py resnet50 --repeat 5

Seconds of CPU, medians.
attar's figure is building the Pruner and 30 times scoring, choosing and cutting, without the proof (Torch-
Pruning has none; `with proof` is told beside it). Torch-Pruning's is building its BasePruner with group norms and 30 steps.
A transformer's heads are declared to Torch-Pruning, which does not find them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from torchvision_ops import define_missing_operators

define_missing_operators()

import timm
import torch_pruning
import torchvision

from attar.models import build
from attar.prune import Pruner

STEPS = 30
NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: build("resnet20", widths=(16, 32, 64), in_channels=3, classes=10), (1, 3, 32, 32)),
    "resnet50": (lambda: torchvision.models.resnet50(weights=None), (1, 3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(weights=None), (1, 3, 64, 64)),
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(weights=None), (1, 3, 64, 64)),
    "vit_small": (lambda: timm.create_model("vit_small_patch16_224", img_size=64), (1, 3, 64, 64)),
}


def attar_seconds(model: torch.nn.Module, example: torch.Tensor, prove: bool) -> float:
    start = time.process_time()
    pruner = Pruner(model, example, allocation="even", prove=prove)
    whole = pruner.cost().params
    for step in range(1, STEPS + 1):
        pruner.cut(pruner.plan_share(1 - 0.5 * step / STEPS))
    assert pruner.cost().params < 0.6 * whole
    return time.process_time() - start


def torch_pruning_seconds(model: torch.nn.Module, example: torch.Tensor) -> float:
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    heads = {m.qkv: m.num_heads for m in model.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")}
    start = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        iterative_steps=STEPS,
        pruning_ratio=0.5,
        ignored_layers=linears[-1:],
        num_heads=heads,
        prune_head_dims=True,
        prune_num_heads=False,
    )
    for _ in range(STEPS):
        pruner.step()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    attar_seconds(torchvision.models.alexnet(weights=None), torch.randn(2, 3, 64, 64), False)  # torch.export's imports
    print(f"{'network':<16}{'attar':>10}{'with proof':>12}{'torch-pruning':>16}{'times':>8}", flush=True)
    for name in options.networks:
        make, shape = NETWORKS[name]
        figures: list[list[float]] = [[], [], []]
        for _ in range(options.repeat):
            torch.manual_seed(0)
            figures[0].append(attar_seconds(make().eval(), torch.randn(shape), False))
            figures[1].append(attar_seconds(make().eval(), torch.randn(shape), True))
            figures[2].append(torch_pruning_seconds(make().eval(), torch.randn(shape)))
        ours, proved, theirs = (statistics.median(values) for values in figures)
        print(f"{name:<16}{ours:>9.2f}s{proved:>11.2f}s{theirs:>15.2f}s{theirs / ours:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
