"""A teacher's outputs as one file that can be given in place of the teacher.

A safetensors file: `rows` uint8 (view epochs, samples, bytes of a row), coded as `coding` says; `samples` int64
(samples,), ascending ids. Its metadata (JSON under the name `attar`) says what teacher, data, augmentation and seed the
outputs belong to, and carries the sha256 of rows and samples. Perhaps `test`: the outputs for the plain test images in
their order, uint8 (n, bytes), coded as `coding_for` the classes says; reports hold the student against them, training
never sees them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from attar.data import random_order
from attar.distil.coding import Coding, Levels, OutputsError, coding_for, coding_named
from attar.distil.objective import Batch
from attar.distil.pools import Kept, digest_of

FORMAT = 1


@dataclass(frozen=True)
class ShippedOutputs:
    """What a file holds; call it with a batch for the teacher's logits."""

    facts: dict[str, Any]
    rows: Tensor
    """uint8 (epochs, n, row_bytes)."""
    samples: Tensor
    """int64 (n,), ascending."""
    coding: Coding
    temperature: float = 1.0
    test: Tensor | None = None
    """float32 (test images, classes), if the file has them."""

    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's logits, float32 (batch, classes), on the device of the batch's images."""
        return self.ahead(batch.epoch, batch.samples).to(batch.images.device)

    def ahead(self, epoch: int, samples: Tensor) -> Tensor:
        """The same by the names of the views alone, on the CPU."""
        index = torch.searchsorted(self.samples, samples.cpu().contiguous())
        return self.coding.decode(self.rows[epoch, index], self.temperature)


def export_pool(pool: Kept, epochs: int | None = None, one_byte: bool = False, test: Tensor | None = None) -> bytes:
    """The contents of a file that stands in for the teacher.

    Args:
        pool: where the outputs are.
        epochs: the first so many view epochs; all that are there unless given.
        one_byte: a byte for each logit instead of two.
        test: the teacher's logits for the plain test images, float (test images, classes).

    Raises:
        OutputsError: an epoch is missing, incomplete or damaged, or the coding has no smaller form.
    """
    numbers = range(epochs if epochs is not None else len(pool.epochs))
    if not pool.facts or not numbers:
        raise OutputsError(f"the pool {pool.key} holds no outputs; `attar cache fill RECIPE` computes them")
    coding = coding_named(pool.facts["coding"], pool.facts["classes"])
    if one_byte and coding.name != "float16":
        raise OutputsError(f"outputs kept as {coding.name} are as small as they get; leave --one-byte out")
    samples = pool.samples()
    tables = [_sorted_rows(pool, epoch, samples) for epoch in numbers]
    if one_byte:
        levels = Levels(coding.classes)
        tables, coding = [levels.encode(coding.decode(table, 1.0)) for table in tables], levels
    rows = torch.stack(tables)
    facts = {
        **pool.facts,
        **pool.notes,
        "format": FORMAT,
        "view_pool": len(numbers),
        "coding": coding.name,
        "row_bytes": coding.row_bytes,
        "rows": digest_of(rows),
    }
    tensors = {"rows": rows, "samples": samples}
    if test is not None:
        tensors["test"] = coding_for(coding.classes).encode(test.float())
        facts["test"] = digest_of(tensors["test"])
    return save(tensors, metadata={"attar": json.dumps(facts)})


def read_outputs(path: Path, temperature: float) -> ShippedOutputs:
    """Open a file of outputs and check that it is whole.

    Raises:
        OutputsError: no such file, damaged, or not a file of outputs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["attar"])
            rows, samples = file.get_tensor("rows"), file.get_tensor("samples")
            test = file.get_tensor("test") if "test" in facts else None
        if facts["format"] != FORMAT:
            raise OutputsError(f"it is of format {facts['format']}, this version of attar reads format {FORMAT}")
        coding = coding_named(facts["coding"], facts["classes"])
        shape = (facts["view_pool"], len(samples), coding.row_bytes)
        if tuple(rows.shape) != shape or rows.dtype != torch.uint8 or samples.dtype != torch.int64:
            raise OutputsError(f"its rows are {list(rows.shape)}, its description says {list(shape)}")
        digests = facts["rows"], facts["samples"]["digest"]
        if digests != (digest_of(rows), digest_of(samples)) or (samples[1:] <= samples[:-1]).any():
            raise OutputsError("its checksums do not fit its rows: it is damaged; fetch or export it again")
        if test is not None:
            test = _decoded_test(test, facts)
    except FileNotFoundError:
        raise OutputsError("there is no such file") from None
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise OutputsError(f"cannot be read as a teacher's outputs ({type(error).__name__}: {error})") from None
    return ShippedOutputs(facts, rows, samples, coding, temperature, test)


def _decoded_test(rows: Tensor, facts: dict[str, Any]) -> Tensor:
    coding = coding_for(facts["classes"])
    if (
        rows.dtype != torch.uint8
        or rows.dim() != 2
        or rows.shape[1] != coding.row_bytes
        or facts["test"] != digest_of(rows)
    ):
        raise OutputsError("its outputs for the test images are damaged; fetch or export it again")
    return coding.decode(rows, 1.0)


def _sorted_rows(pool: Kept, epoch: int, samples: Tensor) -> Tensor:
    """A whole epoch, uint8 (n, row_bytes), in ascending order of sample ids."""
    try:
        rows = pool.rows(epoch)
    except OSError:
        raise OutputsError(f"the pool {pool.key} has no view epoch {epoch}; it has {list(pool.epochs)}") from None
    if not rows.complete:
        lacking = int((~rows.have).sum())
        raise OutputsError(
            f"the pool {pool.key} lacks {lacking} of {len(rows.have)} blocks of view epoch {epoch}; "
            "`attar cache fill RECIPE`, or export the run's folder instead of the pool"
        )
    order = random_order(pool.facts["view_seed"], epoch, samples)
    table = np.empty_like(rows.data)
    table[np.searchsorted(samples.numpy(), order.numpy())] = rows.data
    return torch.from_numpy(table)
