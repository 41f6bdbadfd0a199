"""Where a step of several ranks goes: started by benchmarks/scaling.py under torchrun; the first rank prints a few lines.

torchrun --standalone --nproc-per-node 2 benchmarks/rank_profile.py [BATCH]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from training import machine, student, synthetic, views_of

from attar.distil import from_labels
from attar.recipe import Training
from attar.train import TrainState, fit
from attar.train.mail import Mail
from attar.train.ranks import Ranks

STEPS, CALLS = 10, 200
spent = {"calls": 0, "seconds": 0.0}


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            spent["seconds"] += time.perf_counter() - start
            spent["calls"] += 1

    return call


def microseconds(call: Callable[[], object]) -> float:
    """The median of many calls."""
    dist.barrier()
    taken = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def main() -> None:
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    here, ranks = machine(1), Ranks.here()
    with ranks.connected(cuda=False):
        small = torch.zeros(2, 32)  # what a batch norm of 32 channels sends
        bare = [microseconds(lambda: ranks.gather(small)), microseconds(lambda: dist.all_reduce(small))]
        views, state = views_of(*synthetic(STEPS * batch)), TrainState(student(), here)
        training = Training(epochs=1, batch=batch, learning_rate=0.01)
        fit(state, from_labels, views, torch.arange(batch), training, ranks=ranks)  # warm-up
        dist.all_reduce, dist.all_gather = counted(dist.all_reduce), counted(dist.all_gather)
        Mail._exchanged = counted(Mail._exchanged)  # type: ignore[method-assign]
        start, cpu = time.perf_counter(), time.process_time()
        fit(state, from_labels, views, torch.arange(len(views)), training, ranks=ranks)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        way = "shared memory" if ranks.mail.fits(small) else "gloo"
    if ranks.first:
        each = 1e3 / STEPS
        print(f"a step of two ranks: {wall * each:.0f} ms, of which {spent['seconds'] * each:.0f} ms in")
        print(
            f"{spent['calls'] / STEPS:.0f} messages (statistics of batch norm, forward and backward; gradients; loss and hits);"
        )
        print(f"{cpu * each:.0f} ms of processor time a rank. A message when nobody has to be waited for:")
        print(f"{bare[0]:.0f} us as they go ({way}), {bare[1]:.0f} us by gloo's all_reduce")


if __name__ == "__main__":
    main()
