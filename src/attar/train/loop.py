"""The one loop: it teaches, distils and fine-tunes. What it minimises is the objective's affair."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from attar.data import Views
from attar.distil import Objective
from attar.models import in_mode
from attar.recipe import Training
from attar.train.fast_groups import fast_groups
from attar.train.fast_norm import fast_batch_norm
from attar.train.machine import Machine
from attar.train.rank_norm import RankNorm
from attar.train.ranks import ALONE, Ranks
from attar.train.state import TrainState
from attar.train.step import Step

EXPLODED = 100.0
"""A loss this many times the first one (or 1, if that is larger) counts as an explosion."""


class Diverged(RuntimeError):
    """The loss became NaN, infinite or huge."""


@dataclass(frozen=True)
class Progress:
    """What a step, or an epoch, tells those who watch."""

    step: int
    steps: int
    epoch: int
    learning_rate: float
    loss: float
    """Mean over the images since the last report."""
    accuracy: float
    """On the augmented training views since the last report, 0 to 1."""
    images: int
    """Images seen in the stage so far."""


def steps_for(training: Training, images: int) -> int:
    """Optimiser steps of a call of the loop: whole batches only, at least one."""
    return max(1, round(training.epochs * max(1, images // training.batch)))


def learning_rate(training: Training, step: int, steps: int, images: int) -> float:
    """Linear warm-up, then a cosine from the peak to the final rate; `step` counts from 0."""
    warmup = min(steps - 1, round(training.warmup * max(1, images // training.batch)))
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    fraction = (step - warmup) / max(1, steps - warmup)
    low, high = training.final_learning_rate, training.learning_rate
    return low + (high - low) * (1 + math.cos(math.pi * fraction)) / 2


def fit(
    state: TrainState,
    objective: Objective,
    views: Views,
    samples: torch.Tensor,
    training: Training,
    *,
    view_pool: int = 0,
    ranks: Ranks = ALONE,
    record: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train until the steps of `training` are done, from wherever `state` stands.

    Args:
        state: model, moments, moving average and position; changed in place.
        objective: the loss of a batch.
        views: where augmented batches come from.
        samples: int64 (n,): ids of the training images to use.
        training: optimiser, schedule, batch size.
        view_pool: cycle through this many epochs of views; 0 makes every epoch's views new.
        ranks: the processes that share every batch; up to the order of sums the result is that of one.
        record: let a GPU record the step as a CUDA graph; not for an objective that reads a number of the host, or waits.
        tell: takes a line for whoever watches.
        on_step: called after every step (on a GPU after every few); a checkpoint may be taken there.
        on_epoch: called when an epoch, or the call, ends.

    Raises:
        Diverged: the loss is NaN, infinite, or a hundred times the first one.
        RankError: the ranks do not have the same network, or are more than the images of a batch.
    """
    state.begin(training)
    if ranks.count > 1:
        ranks.check_same("the network's structure", state.structure())
    if ranks.rank:  # dropout and its like: other masks for other images
        torch.manual_seed(state.position.images * ranks.count + ranks.rank)
    norm = fast_batch_norm(state.model) if ranks.count == 1 else RankNorm(ranks)
    with norm, fast_groups(state.model):
        _steps(state, objective, views, samples, training, view_pool, ranks, record, tell, on_step, on_epoch)


def _steps(
    state: TrainState,
    objective: Objective,
    views: Views,
    samples: torch.Tensor,
    training: Training,
    view_pool: int,
    ranks: Ranks,
    record: bool,
    tell: Callable[[str], None],
    on_step: Callable[[Progress], None],
    on_epoch: Callable[[Progress], None],
) -> None:
    at, steps, batch = state.position, steps_for(training, len(samples)), min(training.batch, len(samples))
    model, part = ranks.averaging(state.model), ranks.part(batch)
    step = Step(state, model, objective, views, training, part, record and ranks.count == 1, tell)
    orders: dict[int, torch.Tensor] = {}
    unread = 0

    def prepare(epoch: int) -> None:
        orders[epoch] = order = views.order(epoch, samples)
        views.places(viewed(epoch))  # kept there
        if ranks.count > 1:
            ranks.check_same("the order of the images", hashlib.sha256(order.numpy().tobytes()).digest())

    def viewed(epoch: int) -> int:
        return epoch % view_pool if view_pool else epoch

    while at.step < steps:
        if at.offset + batch > len(samples):
            orders.pop(at.epoch, None)
            at.epoch, at.offset = at.epoch + 1, 0
        if at.epoch not in orders:
            prepare(at.epoch)
        chosen = orders[at.epoch][at.offset : at.offset + batch]
        rate = learning_rate(training, at.step, steps, len(samples))
        if not unread:  # whoever is told of a step may have changed the mode
            model.train()
        step(viewed(at.epoch), ranks.share(chosen), rate)
        at.step, at.offset, at.images = at.step + 1, at.offset + batch, at.images + batch
        unread += 1
        left = (len(samples) - at.offset) // batch  # of the epoch
        ends = at.step == steps or left == 0
        if 1 < unread == step.ahead - 1 and at.step + left < steps and at.epoch + 1 not in orders:
            prepare(at.epoch + 1)  # the GPU is busy, and the host would wait for it
        if unread < step.ahead and not ends:
            continue
        value, hits = ranks.mean_and_sum(*step.read())
        _check(value, state, chosen)
        at.loss_sum, at.hits, at.count = at.loss_sum + value * batch * unread, at.hits + hits, at.count + batch * unread
        unread = 0
        progress = Progress(at.step, steps, at.epoch, rate, at.loss_sum / at.count, at.hits / at.count, at.images)
        if ends:
            at.loss_sum, at.hits, at.count = 0.0, 0, 0
            on_epoch(progress)
        on_step(progress)
    at.step = 0
    state.release()
    step.close()


def _check(loss: float, state: TrainState, samples: torch.Tensor) -> None:
    at = state.position
    if at.first_loss is None and math.isfinite(loss):
        at.first_loss = loss
    if math.isfinite(loss) and loss <= EXPLODED * max(1.0, at.first_loss or 0.0):
        return
    shown = ", ".join(str(s) for s in samples[:8].tolist())
    raise Diverged(
        f"the loss is {loss:g} at step {at.step} of epoch {at.epoch} (batch of {len(samples)} images: {shown}, ...); "
        "a lower learning_rate, a longer warmup or clip = 1 usually helps"
    )


@torch.no_grad()
def predict(
    model: torch.nn.Module, views: Views, samples: torch.Tensor, machine: Machine, batch: int = 500, exact: bool = False
) -> torch.Tensor:
    """Logits for plain (not augmented) images in eval mode; the model's mode is restored.

    Args:
        samples: int64 (n,).
        exact: float32 throughout instead of the run's precision.

    Returns:
        float32 (n, classes) on the CPU.
    """
    found = []
    with in_mode(model, False), _float32() if exact else fast_batch_norm(model):
        for chosen in samples.split(batch):
            images = views.plain(chosen)[0].to(memory_format=machine.memory_format)
            with nullcontext() if exact else machine.autocast():
                found.append(model(images).float().cpu())
    return torch.cat(found)


@contextmanager
def _float32() -> Iterator[None]:
    """On GPUs too: torch would let cuDNN round what convolutions multiply to ten bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def accuracy(
    model: torch.nn.Module,
    views: Views,
    samples: torch.Tensor,
    labels: torch.Tensor,
    machine: Machine,
    ranks: Ranks = ALONE,
) -> float:
    """Share of plain images that the model gets right, 0 to 1; of several ranks, each looks at its part of them.

    Args:
        samples: int64 (n,), at least one.
        labels: int64 (n,), what they are; on the CPU.
    """
    mine, hits = ranks.share(samples), 0
    if len(mine):
        hits = int((predict(model, views, mine, machine).argmax(1) == ranks.share(labels)).sum())
    return ranks.mean_and_sum(0.0, hits)[1] / len(samples)
