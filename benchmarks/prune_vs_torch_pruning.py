"""attar against Torch-Pruning: capture and 30 steps of an even cut to 50 % of the channels, in one process, one thread.

    python benchmarks/prune_vs_torch_pruning.py                      # all networks, three repetitions: about ten minutes
    python benchmarks/prune_vs_torch_pruning.py resnet50 --repeat 5 --write

Seconds of CPU. attar's figure is building the Pruner and 30 times scoring, choosing and cutting; Torch-Pruning's is building its
BasePruner with group norms and 30 steps. Neither proves its cuts in these figures: Torch-Pruning has no proof, and attar's time
with a proof of every step, its default, is told beside them. A transformer's heads are declared to Torch-Pruning, which does not
find them. `step` is one step alone, planning and surgery without the proof, on networks of 90 to 130 million parameters.
`--write` keeps the networks measured in results/prune_vs_torch_pruning.json, beside those kept before.
"""

from __future__ import annotations

import argparse
import json
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
from measuring import RESULTS, Figure, Goal, Result, ratio

from attar.models import build
from attar.prune import Pruner, count_params

NAME = "prune_vs_torch_pruning"
STEPS = 30
Network = tuple[Callable[[], torch.nn.Module], tuple[int, ...]]
NETWORKS: dict[str, Network] = {
    "resnet20": (lambda: build("resnet20", widths=(16, 32, 64), in_channels=3, classes=10), (1, 3, 32, 32)),
    "resnet50": (lambda: torchvision.models.resnet50(weights=None), (1, 3, 64, 64)),
    "densenet121": (lambda: torchvision.models.densenet121(weights=None), (1, 3, 64, 64)),
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(weights=None), (1, 3, 64, 64)),
    "vit_small": (lambda: timm.create_model("vit_small_patch16_224", img_size=64), (1, 3, 64, 64)),
}
LARGE: dict[str, Network] = {
    "wide_resnet101_2": (lambda: torchvision.models.wide_resnet101_2(weights=None), (1, 3, 64, 64)),
    "convnext_base": (lambda: torchvision.models.convnext_base(weights=None), (1, 3, 64, 64)),
}
GOALS = {"densenet121": 10.0, "vit_small": 4.0}
"""How many times as fast as Torch-Pruning; others no slower."""


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


def compared(name: str, repeat: int, proofs: bool) -> tuple[list[Figure], Goal]:
    """Figures of a network, and the goal: Torch-Pruning's seconds over attar's."""
    make, shape = NETWORKS[name]
    ours: list[float] = []
    proved: list[float] = []
    theirs: list[float] = []
    for _ in range(repeat):
        torch.manual_seed(0)
        ours.append(attar_seconds(make().eval(), torch.randn(shape), False))
        if proofs and not proved:  # once: it takes long, and is no part of the goal
            proved.append(attar_seconds(make().eval(), torch.randn(shape), True))
        theirs.append(torch_pruning_seconds(make().eval(), torch.randn(shape)))
    figures = [
        Figure.of(f"{name}: attar, without proof", "s", ours),
        Figure.of(f"{name}: Torch-Pruning, which has no proof", "s", theirs),
    ]
    if proved:
        figures.append(Figure.of(f"{name}: attar, every step proved", "s", proved))
    times = ratio(f"{name}: Torch-Pruning / attar, without proof", theirs, ours)
    return figures, Goal(f"{name}: times as fast as Torch-Pruning", times, GOALS.get(name, 1.0), True)


def one_step(name: str, repeat: int) -> tuple[list[Figure], Goal]:
    """Planning and surgery of one step on a large network, the proof left out."""
    make, shape = LARGE[name]
    model = make().eval()
    whole = f"{name} ({count_params(model) / 1e6:.0f}M parameters)"
    start = time.process_time()
    pruner = Pruner(model, torch.randn(shape), allocation="even", prove=False)
    captured = time.process_time() - start
    steps = []
    for step in range(1, repeat + 1):
        start = time.process_time()
        pruner.cut(pruner.plan_share(1 - 0.5 * step / STEPS))
        steps.append(time.process_time() - start)
    found = Figure.of(f"{whole}: a step, planning and surgery", "s", steps)
    return [Figure.of(f"{whole}: capture, once", "s", [captured]), found], Goal(f"{whole}: s a step", found, 1.0, False)


def keep(result: Result, conditions: str) -> None:
    """Write the result, with those of networks kept before that were not measured now."""
    path = RESULTS / f"{NAME}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    result.profile = result.profile or old.get("profile", "")
    path = result.write(conditions)
    record = json.loads(path.read_text())
    for part in ("figures", "goals"):
        now = {entry["name"] for entry in record[part]}
        record[part] += [entry for entry in old.get(part, []) if entry["name"] not in now]
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, *LARGE])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-proofs", action="store_true", help="leave out attar's time with a proof of every step")
    parser.add_argument("--write", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--conditions", default="not stated", help="what else the machine did, for the record")
    parser.add_argument("--profile", default="", help="where the time goes, kept with the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    attar_seconds(torchvision.models.alexnet(weights=None), torch.randn(2, 3, 64, 64), False)  # what is loaded late
    title = "Pruning against Torch-Pruning"
    result = Result(NAME, title, {"steps": STEPS, "repeat": options.repeat}, 1, profile=options.profile)
    for name in options.networks:
        found = (
            compared(name, options.repeat, not options.no_proofs)
            if name in NETWORKS
            else one_step(name, options.repeat)
        )
        result.figures += found[0]
        result.goals.append(found[1])
    print(result.show(), flush=True)
    if options.write:
        keep(result, options.conditions)


if __name__ == "__main__":
    main()
