"""What training carries from step to step, under names: weights, moments, moving average, position. It can be cut and saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from attar.recipe import Training
from attar.train.checkpoint import NotFinite
from attar.train.machine import Machine
from attar.train.muon import Muon

STATISTICS = ("running_mean", "running_var")
Kept = Mapping[str, Sequence[tuple[int, torch.Tensor]]]
"""Tensor name -> (dimension, int64 indices that stay) for every dimension that a cut shortened."""


@dataclass
class Position:
    """Where in the stream of views, and in the current call of the loop, training stands. Plain numbers."""

    epoch: int = 0
    """Epoch of views, counted over all calls of the loop in a stage."""
    offset: int = 0
    """Images of this epoch already used."""
    step: int = 0
    """Optimiser steps done in the current call."""
    updates: int = 0
    """Updates of the moving average."""
    images: int = 0
    """Images seen in the stage."""
    loss_sum: float = 0.0
    hits: int = 0
    count: int = 0
    """Loss (summed over images), correct predictions and images since the last report."""
    first_loss: float | None = None
    """What later losses are compared with, to notice an explosion."""


class TrainState:
    """A model with everything that its training has gathered."""

    def __init__(self, model: torch.nn.Module, machine: Machine) -> None:
        self.machine = machine
        self.model = machine.place(model)
        self.optimiser: torch.optim.Optimizer | None = None
        self._training: Training | None = None
        """What the optimiser was made for."""
        self.ema: dict[str, torch.Tensor] | None = None
        self.position = Position()
        self._named = dict(self.model.named_parameters())
        self._masks: set[str] = set()
        """Buffers that hold infinities, whose average would be NaN."""

    def begin(self, training: Training) -> None:
        """Set the optimiser and the moving average up for a call of the loop; what they gathered stays where it fits."""
        self._make_optimiser(training, self._moments())
        if training.ema == 0:
            self.ema = None
        elif self.ema is None:
            self.ema = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.position.updates = 0
        self._masks = {name for name in _constants(self.model) if self.model.get_buffer(name).isinf().any()}

    def average_weight(self, decay: float) -> float:
        """What the weights of the next step count for in the average; early steps count more, so that it forgets the start."""
        if self.ema is None:
            return 0.0
        self.position.updates += 1
        return 1 - min(decay, (1 + self.position.updates) / (10 + self.position.updates))

    def move_average(self, weight: float | torch.Tensor) -> None:
        """Move the average towards the weights as they are now; `weight` is a number, or a tensor () on the device."""
        if self.ema is None:
            return
        now = self.model.state_dict()
        names = [name for name, tensor in now.items() if tensor.is_floating_point() and name not in self._masks]
        average, weights = [self.ema[name] for name in names], [now[name] for name in names]
        if isinstance(weight, torch.Tensor):
            change = torch._foreach_sub(weights, average)
            torch._foreach_mul_(change, weight)
            torch._foreach_add_(average, change)
        else:
            torch._foreach_lerp_(average, weights, weight)
        if rest := sorted(now.keys() - set(names)):
            torch._foreach_copy_([self.ema[name] for name in rest], [now[name] for name in rest])

    @contextmanager
    def averaged(self) -> Iterator[torch.nn.Module]:
        """The model with the averaged weights (the last ones where there is no average), for as long as the context lasts."""
        if self.ema is None:
            yield self.model
            return
        now = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(self.ema)
            yield self.model
        finally:
            self.model.load_state_dict(now)

    def cut(self, model: torch.nn.Module, kept: Kept, scaled: Mapping[str, torch.Tensor] | None = None) -> None:
        """Follow a cut of the model: moments and moving average lose the same indices as the weights did.

        Args:
            model: the smaller model (the same object where it was cut in place).
            kept: the indices that stayed.
            scaled: parameter name -> (rows that stay,): what the cut multiplied its rows by; the average follows.
        """
        moments = {
            name: {key: _select(value, kept.get(name, ())) if value.dim() else value for key, value in state.items()}
            for name, state in self._moments().items()
        }
        self.model = self.machine.place(model)
        self._named = dict(self.model.named_parameters())
        if self.ema is not None:
            cut = {name: _select(tensor, kept.get(name, ())) for name, tensor in self.ema.items()}
            for name, factor in (scaled or {}).items():
                rows = factor.to(cut[name].device, cut[name].dtype).view(-1, *[1] * (cut[name].dim() - 1))
                cut[name].mul_(rows)
            # A network that runs its captured graph gains that graph's constants, which no average has seen.
            now = self.model.state_dict()
            self.ema = {name: _like(cut.get(name, tensor), tensor) for name, tensor in now.items()}
            # Running statistics move with a cut; an average that still remembers the old ones is of no network at all.
            self.position.updates = 0
            wrong = [name for name, tensor in now.items() if self.ema[name].shape != tensor.shape]
            assert not wrong, f"the cut did not say how {wrong} became smaller"
        if self.optimiser is not None:
            assert self._training is not None
            self._make_optimiser(self._training, moments)

    def release(self) -> None:
        """Let go of the gradients, and of the memory that a recorded step kept for them."""
        if self.optimiser is not None:
            self.optimiser.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must hold."""
        found = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, state in self._moments().items():
            found |= {f"moment/{name}/{key}": value for key, value in state.items()}
        found |= {f"ema/{name}": tensor for name, tensor in (self.ema or {}).items()}
        found["rng/cpu"] = torch.get_rng_state()  # dropout and its like draw from torch's own generators
        if torch.device(self.machine.device).type == "cuda":
            found["rng/cuda"] = torch.cuda.get_rng_state(self.machine.device)
        if torch.device(self.machine.device).type == "mps":
            found["rng/mps"] = torch.mps.get_rng_state()
        return found

    def check_finite(self) -> None:
        """See that weights, running statistics, moments and averages are finite; other buffers may hold infinities (masks).

        Raises:
            NotFinite: naming the first that is not.
        """
        constants = _constants(self.model)
        for name, tensor in self.tensors().items():
            if tensor.is_floating_point() and name.partition("/")[2] not in constants and not tensor.isfinite().all():
                raise NotFinite(f"training broke down: {name} is not finite")

    def structure(self) -> bytes:
        """Digest of the names and shapes of all weights, 32 bytes."""
        shapes = [(name, list(tensor.shape)) for name, tensor in self.model.state_dict().items()]
        return hashlib.sha256(json.dumps(shapes).encode()).digest()

    def numbers(self) -> dict[str, Any]:
        return asdict(self.position)

    def load(self, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any], training: Training) -> None:
        """Continue from a checkpoint: the counterpart of `tensors` and `numbers`."""
        self.model.load_state_dict(_below(tensors, "model/"))
        self.machine.place(self.model)
        now = self.model.state_dict()
        self.ema = {name: _like(average, now[name]) for name, average in _below(tensors, "ema/").items()} or None
        self.position = Position(**numbers)
        moments: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in _below(tensors, "moment/").items():
            parameter, key = name.rsplit("/", 1)
            moments.setdefault(parameter, {})[key] = tensor
        self._make_optimiser(training, moments)
        torch.set_rng_state(tensors["rng/cpu"])
        if "rng/cuda" in tensors and torch.device(self.machine.device).type == "cuda":
            torch.cuda.set_rng_state(tensors["rng/cuda"], self.machine.device)
        if "rng/mps" in tensors and torch.device(self.machine.device).type == "mps":
            torch.mps.set_rng_state(tensors["rng/mps"])

    def _moments(self) -> dict[str, dict[str, torch.Tensor]]:
        if self.optimiser is None:
            return {}
        named = ((name, self.optimiser.state.get(p, {})) for name, p in self._named.items())
        return {name: {k: v for k, v in state.items() if v is not None} for name, state in named if state}

    def _make_optimiser(self, training: Training, moments: dict[str, dict[str, torch.Tensor]]) -> None:
        """A new optimiser of the parameters as they are now, with those of the moments that fit it."""
        self._training, self.optimiser = training, _optimiser(self.model, training, self.machine)
        for name, parameter in self._named.items():
            state = moments.get(name, {})
            if set(state) == _kept(self.optimiser, parameter):  # another optimiser's moments mean nothing to this one
                self.optimiser.state[parameter] = {key: _like(value, parameter) for key, value in state.items()}
            elif self.optimiser.defaults.get("momentum") and parameter.requires_grad:
                # what SGD would begin with by itself; but fused, it refuses a parameter that begins later than others
                zeros = {key: torch.zeros_like(parameter).detach() for key in _kept(self.optimiser, parameter)}
                self.optimiser.state[parameter] = zeros


def _constants(model: torch.nn.Module) -> set[str]:
    """Names of all buffers but running statistics."""
    return {name for name, _ in model.named_buffers(remove_duplicate=False) if not name.endswith(STATISTICS)}


def _kept(optimiser: torch.optim.Optimizer, parameter: torch.Tensor) -> set[str]:
    """What an optimiser keeps for a parameter."""
    if isinstance(optimiser, Muon):
        return {optimiser.moment(parameter)}
    return {"momentum_buffer"} if isinstance(optimiser, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}


def _optimiser(model: torch.nn.Module, training: Training, machine: Machine) -> torch.optim.Optimizer:
    fused = torch.device(machine.device).type != "mps"
    parameters = list(model.parameters())
    if training.optimiser == "adamw":
        optimiser = torch.optim.AdamW(
            parameters,
            training.learning_rate,
            weight_decay=training.weight_decay,
            fused=fused or None,
            capturable=machine.buffered,
        )
        optimiser._warned_capturable_if_run_uncaptured = True  # type: ignore[attr-defined]  # steps before a recording are meant
        return optimiser
    if training.optimiser == "muon":
        return Muon(model, training.learning_rate, training.momentum, training.weight_decay, fused=fused or None)
    return torch.optim.SGD(
        parameters,
        training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
        fused=fused or None,
    )


def _like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A moment or average laid out as its parameter is: a resumed step then runs the same kernels, the fast ones."""
    if value.shape != parameter.shape:  # AdamW's count of steps
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(value).detach()


def _select(tensor: torch.Tensor, kept: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    for dim, index in kept:
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor.clone()


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
