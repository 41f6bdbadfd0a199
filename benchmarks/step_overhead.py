"""Everything that attar's loop does beside the step itself: views, order, moving average, schedule, counting hits.

    python benchmarks/step_overhead.py            # about a minute

The time of an epoch of the loop (new augmented views of uint8 images, labels as objective, moving average) over that of
as many bare steps: forward, loss, backward and optimiser of the same network, in the same precision, layout and process,
on one resident batch. Beside it, the same loop with Muon's steps in place of SGD's.
"""

from __future__ import annotations

import torch
from measuring import Figure, Goal, Result, Steps, in_turn, main, ratio
from training import STUDENT, epochs_of, machine, student, synthetic, views_of

from attar.distil import from_labels
from attar.train import Machine
from attar.train.fast_norm import fast_batch_norm

GOAL = 1.08


def bare_steps(machine: Machine, batch: int, steps: int) -> Steps:
    model = machine.place(student()).train()
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    images = torch.randn(batch, 1, 28, 28).to(memory_format=machine.memory_format)
    labels = torch.randint(0, 10, (batch,))

    def run() -> None:
        with fast_batch_norm(model):
            for _ in range(steps):
                with machine.autocast():
                    logits = model(images)
                torch.nn.functional.cross_entropy(logits.float(), labels).backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

    return run


def measure(quick: bool, threads: int) -> Result:
    batch, steps, rounds = (16, 2, 2) if quick else (128, 8, 11)
    here = machine(threads)
    views = views_of(*synthetic(batch * steps))
    cases = {
        "attar": epochs_of(here, views, from_labels, batch),
        "attar, muon": epochs_of(here, views, from_labels, batch, optimiser="muon"),
        "bare steps": bare_steps(here, batch, steps),
    }
    times = in_turn(cases, rounds, warmup=2)
    settings = {"network": f"resnet20 {STUDENT}", "batch": batch, "steps": steps, "precision": here.precision}
    result = Result("step_overhead", "Overhead of a step", settings, threads)
    result.figures = [Figure.of(name, "ms a step", [1e3 * t / steps for t in v]) for name, v in times.items()]
    result.figures.append(ratio("attar, muon / attar", times["attar, muon"], times["attar"]))
    result.goals = [Goal("attar / bare steps", ratio("", times["attar"], times["bare steps"]), GOAL, at_least=False)]
    return result


if __name__ == "__main__":
    main(measure, __doc__)
