"""One step of the loop: views, forward, loss, backward, optimiser, moving average.

On a GPU the whole step is recorded as a CUDA graph and replayed, so that the processor's launches no longer set the pace:
all that changes from step to step (ids, places, teacher's outputs, learning rate, weight of the average) lies in buffers.
Elsewhere the same code reads the same inputs as they are. Recording has not run on a GPU yet, only on one that tests pretend
(tests/pretend); where it fails, or a network does what cannot be recorded, steps go on one launch at a time.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from attar.data import Shards, Views, sent
from attar.distil import Batch, Objective, outputs_ahead
from attar.models import SafeStridedConvolutions
from attar.recipe import Training
from attar.train.state import TrainState

WARM_UP = 3
"""Steps before recording: kernels are chosen and the optimiser's moments made."""
AHEAD = 32
"""Steps that may be under way on a GPU before the loop waits for their losses."""


class Step:
    """Call it for one step; `read` says what came of the steps since it was last called."""

    def __init__(
        self,
        state: TrainState,
        model: torch.nn.Module,
        objective: Objective,
        views: Views,
        training: Training,
        part: float = 1.0,
        record: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            state: begun for this training; changed in place.
            model: the state's model, or what averages its gradients over ranks.
            objective, views, training: as for `fit`.
            part: what this rank's loss counts for.
            record: record a CUDA graph, if the images are on a GPU.
            tell: told when that fails.
        """
        assert state.optimiser is not None
        self.state, self.model, self.objective, self.views = state, model, objective, views
        self.optimiser, self.training, self.part, self.tell = state.optimiser, training, part, tell
        # mps has no float64
        kind = torch.float32 if views.device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, dtype=kind, device=views.device)
        self._unread = self._done = 0
        self._inputs: dict[str, Any] = {}
        self._epoch = -1
        self._buffered = record and state.machine.buffered and not isinstance(views.images, Shards)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream() if self._buffered and views.device.type == "cuda" else None

    @property
    def ahead(self) -> int:
        """Steps that should be taken before `read` is called: reading waits for them. One while a recording is to come."""
        waits = self.views.device.type == "cuda" and not self._buffered and self._done >= WARM_UP
        return AHEAD if self._graph is not None or waits else 1

    def __call__(self, epoch: int, samples: Tensor, rate: float) -> None:
        """Train on the views of an epoch of these samples (int64, on the CPU; always as many)."""
        self._load(epoch, samples, rate)
        if self._buffered and self._graph is None and self._done >= WARM_UP:
            self._record()
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is None:
            self._compute()
        else:  # gradients are made on the stream that will be recorded
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                self._compute()
            here.wait_stream(self._stream)
        self._done += 1
        self._unread += 1

    def read(self) -> tuple[float, int]:
        """Mean loss, times this rank's part, and correct predictions, of the steps since the last call."""
        loss, hits = self._sums.tolist()
        value = loss / self._unread * self.part
        self._sums.zero_()
        self._unread = 0
        return value, int(hits)

    def close(self) -> None:
        """Let go of the recording and of what the GPU's libraries keep for its stream."""
        self._graph = None
        if self._stream is not None:
            torch.cuda.synchronize()
            torch._C._cuda_clearCublasWorkspaces()  # they are kept for every stream, and counted as the run's memory

    def _load(self, epoch: int, samples: Tensor, rate: float) -> None:
        weight = self.state.average_weight(self.training.ema)
        self._put("samples", sent(samples, self.views.labels.device))
        self._put("rate", rate)
        self._put("weight", weight)
        if epoch != self._epoch:
            self._epoch = epoch
            self._put("epoch", epoch)
            self._put("places", self.views.places(epoch))
        if self._buffered and (outputs := outputs_ahead(self.objective, epoch, samples)) is not None:
            self._put("outputs", sent(outputs, self.views.device))
        for group in self.optimiser.param_groups:
            group["lr"] = self._inputs["rate"]

    def _put(self, name: str, value: Tensor | float) -> None:
        """Make a value an input of the step; buffers keep their place in memory."""
        buffer = self._inputs.get(name)
        if not self._buffered:
            self._inputs[name] = value
        elif isinstance(value, Tensor):
            self._inputs[name] = value.to(self.views.device, copy=True) if buffer is None else buffer.copy_(value)
        elif buffer is None:
            kind = torch.int64 if name == "epoch" else torch.float32
            self._inputs[name] = torch.full((), value, dtype=kind, device=self.views.device)
        else:
            buffer.fill_(value)

    def _compute(self) -> None:
        """What is recorded: reads the inputs, changes model, moments, average and sums, and waits for nothing."""
        given, state = self._inputs, self.state
        images, labels = self.views.augmented(given["samples"], given["places"], given["epoch"])
        images = images.to(memory_format=state.machine.memory_format)
        batch = Batch(images, labels, self._epoch, given["samples"], given.get("outputs"))
        self.optimiser.zero_grad(set_to_none=True)
        with SafeStridedConvolutions():  # around no more than it must be: a microsecond for every call of torch
            with state.machine.autocast():
                loss, logits = self.objective(self.model, batch)
            torch.autograd.backward(get_gradient_edge(loss * self.part if self.part != 1 else loss))
        if self.training.clip:
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self.training.clip)
        self.optimiser.step()
        state.move_average(given["weight"])
        truth = labels if labels.dim() == 1 else labels.argmax(1)  # mixtures have shares of two classes
        hits = (logits.detach().argmax(1) == truth).sum()
        self._sums.add_(torch.stack((loss.detach().to(self._sums.dtype), hits.to(self._sums.dtype))))

    def _record(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        before = _host_generators()
        graph: torch.cuda.CUDAGraph | None = None
        try:
            graph = _recorded(self._compute, self._stream)
            now = _host_generators()
            if drew := [name for name, (place, _) in before.items() if now[name][0] != place]:
                raise RuntimeError(f"it draws from {drew[0]}, and every replay would do what was drawn once")
            self._graph = graph
            return
        except RuntimeError as error:
            # what went wrong in the step makes the end of its recording fail, too
            why = str(error.__context__ or error).splitlines()[0][:200]
        for _, restore in before.values():  # the step is taken yet
            restore()
        self._buffered = False
        self._inputs.pop("outputs", None)
        graph = None
        self.optimiser.zero_grad(set_to_none=True)
        gc.collect()  # tracebacks hold what the step had made, and all of its memory, in cycles
        self.tell(f"the step cannot be recorded as a CUDA graph ({why}); it runs unrecorded")


def _host_generators() -> dict[str, tuple[Any, Callable[[], None]]]:
    """Of each generator of random numbers on the host, by name: where it stands, and what brings it back there."""
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), sys.modules.get("numpy")
    found: dict[str, tuple[Any, Callable[[], None]]] = {
        "torch's generator of the CPU": (cpu.tolist(), lambda: torch.set_rng_state(cpu)),
        "Python's random": (python, lambda: random.setstate(python)),
    }
    if numpy is not None:
        name, keys, *rest = state = numpy.random.get_state()
        found["numpy's random"] = (name, keys.tobytes(), *rest), lambda: numpy.random.set_state(state)
    return found


_FAILED: list[torch.cuda.CUDAGraph] = []
"""Kept for good: torch's allocator may still point at a graph whose recording failed."""


def _recorded(compute: Callable[[], None], stream: torch.cuda.Stream | None) -> torch.cuda.CUDAGraph:
    """The function as a CUDA graph; it is not carried out.

    Raises:
        RuntimeError: it does what cannot be recorded. What comes after may be recorded all the same: up to 2.11 torch leaves
            the stream of a failed recording current, and its pool of memory open (pytorch pull request 180395).
    """
    graph, here, pool = torch.cuda.CUDAGraph(), torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            compute()
    except RuntimeError:
        spare = torch.cuda.CUDAGraph()
        _FAILED.extend((graph, spare))
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(here.device_index, pool)
        # up to 2.11 the generator takes itself for recorded, and eager dropout raises, until a recording ends well
        with suppress(RuntimeError), torch.cuda.graph(spare, stream=stream):
            torch.zeros((), device=here.device)
        torch.cuda.set_stream(here)
        raise
    return graph
