"""Training step of ResNet-20 before and after pruning: plain torch modules against attar's loop body on this CPU.

    python benchmarks/pruned_step.py            # two or three minutes on two cores; --write keeps the figures

A step is forward, loss, backward and SGD on a resident batch of 256 images of 1x28x28, bf16 autocast where the CPU has
it, channels_last. `attar` is what `attar.train` adds: batch norm on folded rows, and freed memory that stays with the
process. The latter is a setting of the process, so each case has a process of its own; they take turns. (8, 16, 40) is
(9, 19, 39) with every width a multiple of eight, as `prune.round_to = 8` keeps them: 96,034 parameters for 99,603.
"""

from __future__ import annotations

import contextlib
from contextlib import nullcontext

import torch
from measuring import Figure, Goal, Result, Steps, Worker, in_turn, main, ratio
from torch.nn.functional import cross_entropy
from training import by_operation

from attar.models import build
from attar.train.fast_norm import fast_batch_norm
from attar.train.memory import keep_freed_memory

WHOLE, ROUND, PRUNED = (16, 32, 64), (8, 16, 40), (9, 19, 39)
GOAL = 1.8


def stepper(widths: tuple[int, ...], fast: bool, bf16: bool, batch: int, threads: int, steps: int = 1) -> Steps:
    """Training steps of a fresh network on a fixed batch."""
    torch.set_num_threads(threads)
    if fast:
        keep_freed_memory()
    torch.manual_seed(0)
    model = build("resnet20", widths=widths, in_channels=1, classes=10).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 1, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        with fast_batch_norm(model) if fast else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(images)
            cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def several() -> None:
        for _ in range(steps):
            step()

    return several


def native_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def measure(quick: bool, threads: int) -> Result:
    batch, rounds, steps = (32, 2, 1) if quick else (256, 12, 3)
    bf16, all_widths = native_bf16(), (PRUNED,) if quick else (WHOLE, ROUND, PRUNED)
    kinds = {
        (widths, fast, bf16): "attar" if fast else "plain torch" for widths in all_widths for fast in (False, True)
    }
    if bf16 and not quick:
        kinds |= {(widths, True, False): "attar in float32" for widths in (ROUND, PRUNED)}
    with contextlib.ExitStack() as stack:
        cases = {
            f"{kind[0]}, {name}": stack.enter_context(Worker(stepper, *kind, batch, threads, steps))
            for kind, name in kinds.items()
        }
        times = in_turn(cases, rounds, warmup=2)
    settings = {"batch": batch, "precision": "bf16" if bf16 else "fp32", "steps a round": steps}
    result = Result("pruned_step", "Training step before and after pruning", settings, threads)
    result.figures = [Figure.of(name, "ms", [1e3 * t / steps for t in values]) for name, values in times.items()]
    gains = [
        ratio(f"{widths}: plain torch / attar", times[f"{widths}, plain torch"], times[f"{widths}, attar"])
        for widths in all_widths
    ]
    result.figures += gains[:-1]
    for name in dict.fromkeys(name for name in kinds.values() if name != "plain torch" and not quick):
        over, under = f"{PRUNED}, {name}", f"{ROUND}, {name}"
        result.figures.append(ratio(f"{over} / {under}", times[over], times[under]))
    result.goals = [Goal(gains[-1].name, gains[-1], GOAL, at_least=True)]
    if not result.goals[0].met and not quick:
        step = stepper(PRUNED, True, bf16, batch, threads)
        result.profile = by_operation(step, f"attar's step at {PRUNED}, in {threads} threads")
    return result


if __name__ == "__main__":
    main(measure, __doc__)
