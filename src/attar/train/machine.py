"""Where training runs: device, precision, memory layout and threads, decided once per run and recorded."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from attar.recipe import Compute
from attar.train.memory import keep_freed_memory
from attar.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Machine:
    """A resolved choice: plain values, so that it can be recorded and compared."""

    device: str
    precision: str
    """`fp32`, or `bf16` for autocast (weights, losses and optimiser stay float32)."""
    channels_last: bool
    threads: int
    """Of each rank."""
    ranks: int = 1

    @classmethod
    def choose(cls, compute: Compute, ranks: Ranks = ALONE) -> Machine:
        """Resolve `auto` for this machine, set torch's number of threads, and let the process keep freed memory.

        Raises:
            ValueError: a device or precision was asked for that is not here, or not for each of several ranks.
        """
        device = _device(compute.device)
        if ranks.count > 1:
            device = _device_of_rank(compute.device, device, ranks)
        kind = torch.device(device).type
        native = _native_bf16(kind)
        if compute.precision == "bf16" and kind == "mps":
            raise ValueError("compute.precision = 'bf16' is not supported on mps; use 'fp32' or 'auto'")
        precision = ("bf16" if native else "fp32") if compute.precision == "auto" else compute.precision
        torch.set_num_threads(compute.threads or _cores())
        if kind == "cpu":
            keep_freed_memory()
        if kind == "cuda" and precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # its products have ten bits
        return cls(device, precision, kind != "mps", torch.get_num_threads(), ranks.count)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    @property
    def buffered(self) -> bool:
        """Whether a step's inputs are to lie in buffers, so that it can be recorded as a CUDA graph."""
        return torch.device(self.device).type == "cuda"

    @property
    def emulates(self) -> bool:
        """Whether bf16 was asked for where it is not native: many times slower than fp32 on a processor with AVX2 alone."""
        return self.precision == "bf16" and not _native_bf16(torch.device(self.device).type)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device, its 4-d parameters into the layout.

        The copy is always fresh: where a dimension is 1 several strides count as the same layout, and a kernel
        chosen by stride would break "the same bits after a resume".
        """
        model.to(self.device)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 4:
                    fresh = torch.empty_like(parameter, memory_format=self.memory_format)
                    parameter.data = fresh.copy_(parameter)
        return model

    def record(self) -> dict[str, Any]:
        return asdict(self)


def _device(asked: str) -> str:
    if asked == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = asked.partition(":")
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here[kind]:
        found = ", ".join(name for name, is_here in here.items() if is_here)
        raise ValueError(f"compute.device = {asked!r} is not on this machine; there is: {found}")
    if number and int(number) >= (count := torch.cuda.device_count()):
        raise ValueError(f"compute.device = {asked!r} is not on this machine; its GPUs are 0 to {count - 1}")
    if number:
        torch.cuda.set_device(asked)  # streams and graphs are made on the current one
    return asked


def _device_of_rank(asked: str, device: str, ranks: Ranks) -> str:
    """The device of one rank of several: a GPU of its own, or the CPU."""
    if device == "mps" and asked == "auto":
        return "cpu"
    if device == "mps" or ":" in asked:
        raise ValueError(
            f"compute.device = {asked!r} names one device and there are {ranks.count} ranks; write 'cuda', and each takes one, "
            "or 'cpu'"
        )
    if device == "cuda" and ranks.local >= torch.cuda.device_count():
        raise ValueError(
            f"rank {ranks.rank} needs a GPU of its own and there are {torch.cuda.device_count()} on its machine; start fewer "
            "(torchrun --nproc-per-node), or set compute.device = 'cpu'"
        )
    if device != "cuda":
        return device
    torch.cuda.set_device(ranks.local)
    return f"cuda:{ranks.local}"


def _native_bf16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _cores() -> int:
    """What OMP_NUM_THREADS says, as torch itself would take it; else the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
