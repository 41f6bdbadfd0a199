"""Latency: measured on this machine, never modelled, and budgets that limit it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from attar.models import in_mode
from attar.prune.allocation import BudgetError, choose, smallest
from attar.prune.batch import shared_batch
from attar.prune.capture import Example, split_example
from attar.prune.cost import CostModel
from attar.prune.structure import Kept, Structure


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass in eval mode on this machine, and how they were measured."""

    seconds: float
    """The median."""
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""
    batch: int
    threads: int
    repeats: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        spread = f"quartiles {self.low * 1e3:.3g} to {self.high * 1e3:.3g}"
        return f"{self.seconds * 1e3:.3g} ms (median of {self.repeats}, {spread}; batch {self.batch}, {threads})"


def measure_latency(
    module: nn.Module, example: Example, batch: int = 1, threads: int = 1, repeats: int = 25
) -> Latency:
    """Time the forward pass.

    Args:
        module: put into eval mode while it is measured; its mode is restored.
        example: a tensor, a tuple of arguments or a dict of keywords; of tensors, the first sample is repeated. Where they
            do not share their first dimension, the example is one sample and is taken as it stands.
        batch: samples in the batch.
        threads: CPU threads to compute with; the process's setting is restored.
        repeats: timed passes, after a fifth as many untimed ones.

    Raises:
        ValueError: a batch, threads or repeats below 1, or a batch above 1 of an example whose tensors do not share one.
    """
    for name, value in (("batch", batch), ("threads", threads), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    arguments, keywords = _batched(split_example(example), batch)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with in_mode(module, False), torch.inference_mode():
            for _ in range(max(2, repeats // 5)):
                module(*arguments, **keywords)
            times = [_seconds(module, arguments, keywords) for _ in range(repeats)]
    finally:
        torch.set_num_threads(before)
    low, median, high = statistics.quantiles(times, n=4) if repeats > 1 else times * 3
    return Latency(median, low, high, batch, threads, repeats)


@dataclass(frozen=True)
class Probe:
    """One point of the search: what was tried and what it took."""

    kept: Kept
    macs: int
    seconds: float


def choose_by_latency(
    structure: Structure,
    scores: Mapping[int, torch.Tensor],
    limits: Mapping[str, float],
    measure: Callable[[Kept], float],
    allocation: str = "even",
    *,
    probes: int = 8,
    model: CostModel | None = None,
    later: Mapping[str, float] | None = None,
    **options: Any,
) -> tuple[Kept, list[Probe]]:
    """The units that stay under limits among which is a latency.

    Latency falls with the MACs but not exactly, so the MACs are bisected: at each of a few points the allocation is
    made and the cut network timed; twice where it does not hold, of which the better counts. The slowest one found under the
    limit is timed again, and must hold again, before it is returned.

    Args:
        limits: `latency` in seconds, and any of the counted kinds.
        measure: the seconds that the network takes when these units are kept: cuts a copy and measures it.
        allocation, model, later, options: as for `attar.prune.allocation.choose`.
        probes: halvings of the range of MACs.

    Returns:
        The masks, and every point that was measured.

    Raises:
        BudgetError: even the smallest network takes longer; it names what that one took.
    """
    model = model or CostModel(structure)
    limit, counted = limits["latency"], {kind: value for kind, value in limits.items() if kind != "latency"}
    tried: list[Probe] = []

    def probe(macs: float | None) -> Probe:
        bound = counted if macs is None else {**counted, "macs": min(macs, counted.get("macs", macs))}
        kept = choose(structure, scores, bound, allocation, model=model, later=later, **options)
        known = next((point for point in tried if _same(point.kept, kept)), None)
        if known is None:
            seconds = measure(kept)
            if seconds > limit:  # whatever else the machine does makes it slower, and a search by that ends far too low
                seconds = min(seconds, measure(kept))
            known = Probe(kept, model.cost(kept)["macs"], seconds)
            tried.append(known)
        return known

    first = probe(None)
    if first.seconds > limit:
        low, high = float(smallest(structure, scores, model=model, **options)["macs"]), float(first.macs)
        check_smallest(probe(low).seconds, limit)
        for _ in range(probes):
            middle = (low + high) / 2
            low, high = (middle, high) if probe(middle).seconds <= limit else (low, middle)
    return _confirmed(tried, limit, measure), tried


def check_smallest(seconds: float, limit: float) -> None:
    """See that the smallest reachable network, which takes `seconds`, is under the limit; raises BudgetError."""
    if seconds > limit:
        raise BudgetError(
            f"the budget cannot be met: latency <= {limit * 1e3:.4g} ms, but the smallest reachable network takes "
            f"{seconds * 1e3:.4g} ms here; raise the limit, lower floors or round_to, or protect less",
            {"latency": seconds},
        )


def _confirmed(tried: list[Probe], limit: float, measure: Callable[[Kept], float]) -> Kept:
    """The largest point that is under the limit twice; noise may rule out the first candidates."""
    candidates = sorted((point for point in tried if point.seconds <= limit), key=lambda point: -point.macs)
    again = [0.0]
    for point in candidates:
        again.append(measure(point.kept))
        if again[-1] <= limit:
            return point.kept
    raise BudgetError(
        f"latency <= {limit * 1e3:.4g} ms held once but not when measured again ({again[-1] * 1e3:.4g} ms); "
        "timings on this machine are too noisy for a limit this close: raise it, or run on an idle machine",
        {"latency": again[-1]},
    )


def _same(one: Kept, other: Kept) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[index], other[index]) for index in one)


def _seconds(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> float:
    """Wall-clock seconds of one pass, with the device's queue empty before and after."""
    cuda = any(isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in tree_leaves((arguments, keywords)))
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    module(*arguments, **keywords)
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _batched(call: tuple[Any, Any], batch: int) -> tuple[Any, Any]:
    """The call with each tensor's first sample repeated `batch` times; as it is where its tensors share no batch."""
    shapes = [tuple(leaf.shape) for leaf in tree_leaves(call) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    if shared_batch(shapes) is None:
        if shapes and batch > 1:
            raise ValueError(
                f"batch={batch}: the example's tensors have the shapes {', '.join(map(str, shapes))}; they share no first "
                "dimension that could be made longer; measure with batch=1, which takes the example as it stands"
            )
        return call

    def repeated(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.dim():
            return leaf[:1].expand(batch, *leaf.shape[1:]).contiguous()
        return leaf

    return tree_map(repeated, call)
