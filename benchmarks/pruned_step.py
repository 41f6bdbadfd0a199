"""Training step of ResNet-20 before and after pruning, with torch's batch norm and with attar's.

    python benchmarks/pruned_step.py            # about a minute on two cores; --write keeps the figures

A step is forward, loss, backward and SGD on a resident batch of 256 images of 1x28x28, bf16 autocast where the CPU has
it, channels_last. The four cases take turns within a round, so that other work on the machine hits all alike; medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from attar.models import build
from attar.train.fast_norm import fast_batch_norm

WIDTHS = ((16, 32, 64), (9, 19, 39))


def stepper(widths: tuple[int, ...], fast: bool, batch: int, precision: str) -> Callable[[], None]:
    """One training step of a fresh network on a fixed batch."""
    torch.manual_seed(0)
    model = build("resnet20", widths=widths, in_channels=1, classes=10).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(batch, 1, 28, 28).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        with fast_batch_norm(model) if fast else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(images)
            cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def measure(batch: int, precision: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step, by case; three rounds of warm-up are left out."""
    cases = {
        f"{widths} {'fast' if fast else 'stock'}": stepper(widths, fast, batch, precision)
        for widths in WIDTHS
        for fast in (False, True)
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for i in range(rounds + 3):
        for name, step in cases.items():
            start = time.perf_counter()
            step()
            if i >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/pruned_step.json")
    arguments = parser.parse_args()
    native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    precision = {"auto": "bf16" if native else "fp32"}.get(arguments.precision, arguments.precision)
    times = measure(arguments.batch, precision, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        rate = arguments.batch / medians[name] * 1e3
        print(f"{name:22} median {medians[name]:7.1f} ms   fastest {min(values):7.1f} ms   {rate:6.0f} images/s")
    # a round's own ratio: what disturbs the machine disturbs neighbours alike
    ratios = {
        str(widths): statistics.median(a / b for a, b in zip(times[f"{widths} stock"], times[f"{widths} fast"]))
        for widths in WIDTHS
    }
    for name, ratio in ratios.items():
        print(f"{name}: stock / fast = {ratio:.2f} (median over rounds)")
    if arguments.write:
        record = {
            "batch": arguments.batch,
            "precision": precision,
            "rounds": arguments.rounds,
            "median_ms": medians,
            "fastest_ms": {name: min(values) for name, values in times.items()},
            "stock_over_fast": ratios,
            "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        path = Path(__file__).parent / "results" / "pruned_step.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"written: {path.name}")


if __name__ == "__main__":
    main()
