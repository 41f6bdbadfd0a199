"""The teacher's outputs for every view, computed once: what distillation asks instead of the teacher.

Because a view is a pure function of (seed, epoch, sample), so are the teacher's logits for it. They are kept for every
training sample of a view epoch, on disk (shared by all stages, runs, students and seeds that see the same views through
the same teacher) or, where nothing is to be stored, in memory while the epoch lasts.

**The same bits with and without the store.** What a network says of an image depends, in the last bits, on the batch
that the image comes in: on this project's CPUs float32 convolutions and products choose their kernels by batch size and
by the place in the batch (logits of a ResNet-20 moved by up to 6e-7, of a DenseNet by 2e-3; bfloat16 autocast moved
none). So the teacher is always shown the same blocks of 256 views, in an order that is a pure function of (view seed,
epoch, samples), and the student's loss always sees the rounded logits that a store would give back. On one CPU with one
number of threads and one version of torch that makes the results of training identical, bit by bit, whether outputs were
stored, remembered from a killed run, or computed just now; these facts are part of the key, so other machines do not mix
theirs in. On a GPU the same holds as far as the library's forward kernels are deterministic for a fixed shape (cuDNN's
usual choice is, `cudnn.benchmark = True` need not be); nothing here depends on it but the last bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attar.data import Views, random_order, sent
from attar.distil.coding import Coding
from attar.distil.objective import Batch
from attar.distil.pools import Pool
from attar.distil.store import BLOCK, Bytes, Rows, StoredRows, blocks

EPOCHS_OPEN = 2
"""View epochs held open (on disk) or remembered (in memory)."""

TOLERANCE = 0.05
"""Of the spread of its logits, so far the teacher may be from what the store has: more than other kernels and roundings do."""

Evaluate = Callable[[Tensor], Tensor]
"""Normalised images (n, C, H, W) -> the teacher's logits float32 (n, classes), in eval mode, without gradients."""
Tell = Callable[[str], None]
"""Takes a line for whoever watches."""


class TeacherError(ValueError):
    """The teacher's outputs cannot be used."""


class Together(Protocol):
    """Processes that share every batch."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def any(self, flags: Tensor) -> Tensor:
        """bool, of any shape: where any process's flag is set."""

    def gather(self, tensor: Tensor) -> Tensor:
        """Every process's tensor (...): (processes, ...), in their order."""


@dataclass
class _Epoch:
    order: Tensor
    """int64 (n,): the sample ids, in the order of the rows."""
    row: npt.NDArray[np.int64]
    """Of each sample id; -1 for samples that are not trained on."""
    rows: Rows
    everywhere: bool = False
    """Whether all processes that share batches are known to have all rows."""


class ViewOutputs:
    """The teacher's outputs per view, from the store where it has them, from the teacher where it has not."""

    def __init__(
        self,
        views: Views,
        samples: Tensor,
        evaluate: Evaluate,
        coding: Coding,
        temperature: float = 1.0,
        pool: Pool | None = None,
        tell: Tell = lambda line: None,
        together: Together | None = None,
    ) -> None:
        """
        Args:
            views: where the views come from; its seed names them.
            samples: int64 (n,): all ids that will be asked for, whatever the batches.
            evaluate: the teacher; called with blocks of 256 views of one epoch (the last block is shorter).
            coding: how a row of logits is kept.
            temperature: of the softmax that the outputs go into; matters only to codings that drop classes.
            pool: the store; None keeps an epoch in memory while it lasts.
            tell: told of damage, of lack of room, and of computations that take long.
            together: the processes that share every batch; each then computes its share of the missing blocks. All must
                make the same calls in the same order, with whatever samples.
        """
        self.views, self.samples, self.evaluate = views, samples.cpu().sort().values, evaluate
        self.coding, self.temperature, self.pool, self.tell = coding, temperature, pool, tell
        self.together = together
        self._epochs: dict[int, _Epoch] = {}
        self._told: set[str] = set()

    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's logits, float32 (batch, classes), on the views' device.

        Raises:
            TeacherError: a logit is not a number.
        """
        return self.ahead(batch.epoch, batch.samples)

    def ahead(self, number: int, samples: Tensor) -> Tensor:
        """The same by the names of the views alone: their epoch, and int64 (batch,)."""
        epoch = self._epoch(number)
        index = epoch.row[samples.cpu().numpy()]
        assert (index >= 0).all(), "a batch with samples that were not announced"
        self._complete(number, np.unique(index // BLOCK))
        rows = torch.from_numpy(epoch.rows.data[index])
        return sent(self.coding.decode(rows, self.temperature), self.views.device)

    def fill(self, epoch: int) -> None:
        """Compute whatever is missing of a view epoch.

        Raises:
            TeacherError: a logit is not a number.
        """
        self._complete(epoch, np.arange(blocks(len(self.samples))))

    def check_stored(self) -> None:
        """See by one block that the store has what this teacher says; its code may have changed where no fact shows it.

        Raises:
            TeacherError: it has something else.
        """
        if self.pool is None:
            return
        for number in self.pool.epochs:
            epoch = self._epoch(number)
            for block in np.flatnonzero(epoch.rows.have)[:1].tolist():
                stored = epoch.rows.data[block * BLOCK : (block + 1) * BLOCK].copy()
                moved = self._distance(stored, self._computed(epoch, number, block))
                if moved > TOLERANCE:
                    raise TeacherError(
                        f"the outputs kept in {self.pool.path} are not what the teacher says now (off by {moved:.0%} of their "
                        "spread): code that its network is made of has changed. Undo that, or have the teacher asked anew: "
                        f"`attar cache clear {self.pool.key}`, then the same command"
                    )
                return

    def _distance(self, a: Bytes, b: Bytes) -> float:
        """Between the logits of two blocks, in units of the spread of the first among the classes."""
        logits = [self.coding.decode(torch.from_numpy(rows), self.temperature) for rows in (a, b)]
        first, second = (each - each.mean(1, keepdim=True) for each in logits)
        return float((first - second).norm() / first.norm().clamp(min=1e-7))

    def stored(self, epoch: int) -> bool:
        """Whether all of a view epoch is on disk."""
        rows = self._epoch(epoch).rows
        return isinstance(rows, StoredRows) and rows.complete

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) >= EPOCHS_OPEN:
                del self._epochs[next(iter(self._epochs))]
            order = random_order(self.views.seed, epoch, self.samples)
            row = np.full(len(self.views), -1, np.int64)
            row[order.numpy()] = np.arange(len(order))
            self._epochs[epoch] = _Epoch(order, row, self._rows(epoch))
        return self._epochs[epoch]

    def _rows(self, epoch: int) -> Rows:
        n, row_bytes = len(self.samples), self.coding.row_bytes
        try:
            stored = self.pool.open(epoch, self.samples, row_bytes) if self.pool else None
        except OSError as error:
            self._tell_once(f"teacher's outputs are not stored: {error}; the teacher runs for every epoch instead")
            stored = None
        if stored is not None and stored.damaged:
            self.tell(
                f"{stored.path}: {stored.damaged} of {blocks(n)} blocks were damaged; the teacher computes them anew"
            )
        return stored if stored is not None else Rows(n, row_bytes)

    def _complete(self, number: int, wanted: npt.NDArray[np.int64]) -> None:
        epoch = self._epoch(number)
        if self.together is not None:
            self._complete_together(epoch, number, wanted, self.together)
            return
        missing = epoch.rows.missing(wanted)
        last = start = time.monotonic()
        for done, block in enumerate(missing):
            if time.monotonic() - last >= 2:
                last = time.monotonic()
                left = (last - start) / done * (len(missing) - done)
                self.tell(
                    f"the teacher looks at the views of epoch {number}: {done / len(missing):.0%}, {left:.0f} s left"
                )
            self._keep(epoch, block, self._computed(epoch, number, block))

    def _complete_together(self, epoch: _Epoch, number: int, wanted: npt.NDArray[np.int64], together: Together) -> None:
        """Have the blocks that any process wants and any lacks computed, one by each process at a time, and exchanged."""
        if epoch.everywhere:
            return
        count, size = blocks(len(self.samples)), (BLOCK, self.coding.row_bytes)
        flags = torch.zeros(2, count, dtype=torch.bool)
        flags[0, epoch.rows.missing(np.arange(count))] = True
        flags[1, torch.from_numpy(wanted)] = True
        lacking, asked = together.any(flags)
        epoch.everywhere = not lacking.any()
        todo = torch.nonzero(lacking & asked)[:, 0].tolist()
        # nobody idles: the first blocks beyond what is asked for fill the last round
        todo += torch.nonzero(lacking & ~asked)[:, 0].tolist()[: -len(todo) % together.count]
        for first in range(0, len(todo), together.count):
            turn = todo[first : first + together.count]
            mine = torch.zeros(size, dtype=torch.uint8)
            if together.rank < len(turn):
                computed = self._computed(epoch, number, turn[together.rank])
                mine[: len(computed)] = torch.from_numpy(computed)
            for block, rows in zip(turn, together.gather(mine)):
                self._keep(epoch, block, rows.numpy()[: len(self.samples) - block * BLOCK])

    def _computed(self, epoch: _Epoch, number: int, block: int) -> Bytes:
        """The teacher's outputs for a block of views, encoded."""
        samples = epoch.order[block * BLOCK : (block + 1) * BLOCK]
        logits = self.evaluate(self.views.batch(number, samples)[0])
        if not torch.isfinite(logits).all():
            raise TeacherError(
                f"the teacher's outputs for views of epoch {number} are not finite numbers (samples "
                f"{samples[~torch.isfinite(logits).all(1).cpu()][:5].tolist()}); check its weights and compute.precision"
            )
        encoded: Bytes = self.coding.encode(logits).numpy()
        return encoded

    def _keep(self, epoch: _Epoch, block: int, rows: Bytes) -> None:
        try:
            epoch.rows.write(block, rows)
        except OSError as error:
            self._tell_once(f"teacher's outputs cannot be stored: {error}; they stay in memory for this epoch")
            epoch.rows = _in_memory(epoch.rows)
            epoch.rows.write(block, rows)

    def _tell_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.tell(line)


def _in_memory(rows: Rows) -> Rows:
    copy = Rows(rows.n, rows.data.shape[1])
    copy.data[:], copy.have[:] = rows.data, rows.have
    return copy
