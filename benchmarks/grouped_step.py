"""Training step of networks with depthwise convolutions: plain bf16 autocast against attar's loop body on this CPU.

    python benchmarks/grouped_step.py           # about two minutes on two cores; --write keeps the figures

A step is forward, loss, backward and SGD on a resident batch, bf16 autocast where the CPU has it, channels_last. All cases
have attar's batch norm and memory; `attar` adds what `attar.train` does about grouped convolutions for which bfloat16 has no
fast kernel (`attar.train.fast_groups`). Beside it, the whole step in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from torchvision_ops import define_missing_operators

define_missing_operators()

import torchvision
from measuring import Figure, Goal, Result, Steps, in_turn, main, ratio
from pruned_step import native_bf16
from torch.nn.functional import cross_entropy
from training import by_operation

from attar.models import build
from attar.train.fast_groups import fast_groups
from attar.train.fast_norm import fast_batch_norm
from attar.train.memory import keep_freed_memory

Network = tuple[Callable[[], torch.nn.Module], tuple[int, ...]]
NETWORKS: dict[str, Network] = {
    "separable_resnet": (lambda: build("separable_resnet", in_channels=1, classes=10), (128, 1, 28, 28)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None), (16, 3, 64, 64)),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(weights=None), (32, 3, 64, 64)),
    "shufflenet_v2_x0_5": (lambda: torchvision.models.shufflenet_v2_x0_5(weights=None), (32, 3, 64, 64)),
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(weights=None), (8, 3, 64, 64)),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(weights=None), (16, 3, 64, 64)),
}
PLAIN, ATTAR, FLOAT32 = "plain bf16", "attar", "float32"
GOAL = 1.0
"""Times as fast as float32: where a CPU has bf16 natively, attar trains in it unless told otherwise."""


def steppers(make: Callable[[], torch.nn.Module], shape: tuple[int, ...]) -> dict[str, Steps]:
    """Training steps of one network on one batch, in the three ways."""
    torch.manual_seed(0)
    model = make().to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    images = torch.randn(shape).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (shape[0],))

    def step(bf16: bool, attar: bool) -> None:
        with fast_batch_norm(model), fast_groups(model) if attar else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(images)
            cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return {
        PLAIN: lambda: step(native_bf16(), False),
        ATTAR: lambda: step(native_bf16(), True),
        FLOAT32: lambda: step(False, False),
    }


def measure(quick: bool, threads: int) -> Result:
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = {"precision": "bf16" if native_bf16() else "fp32"}
    result = Result("grouped_step", "Training step with grouped convolutions", settings, threads)
    for name, (make, shape) in list(NETWORKS.items())[: 1 if quick else None]:
        shape = (8, *shape[1:]) if quick else shape
        steps = steppers(make, shape)
        times = in_turn(steps, 2 if quick else 9)
        what = f"{name}, {shape[0]} x {shape[1]} x {shape[2]} x {shape[3]}"
        result.figures += [Figure.of(f"{what}: {how}", "ms", [1e3 * t for t in taken]) for how, taken in times.items()]
        result.figures.append(ratio(f"{name}: {PLAIN} / {ATTAR}", times[PLAIN], times[ATTAR]))
        goal = Goal(f"{name}: {FLOAT32} / {ATTAR}", ratio("", times[FLOAT32], times[ATTAR]), GOAL, at_least=True)
        if not goal.met and not quick:
            profiles = [by_operation(steps[how], f"{name}, {how}") for how in (ATTAR, FLOAT32)]
            result.profile = "\n\n".join(filter(None, (result.profile, *profiles)))
        result.goals.append(goal)
    return result


if __name__ == "__main__":
    main(measure, __doc__)
