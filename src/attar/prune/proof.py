"""Proof: the cut network must compute what the original computes with the removed units masked, in float64.

In eval mode, and in train mode too, with dropout that keeps everything, wherever a graph of train mode could be had.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from attar.prune.answers import TOLERANCE, largest_change, not_finite, output, relative_error, same_shapes
from attar.prune.coupling import Coupled
from attar.prune.masked import Masked, spread
from attar.prune.modules import named_tensors
from attar.prune.questions import QUESTIONS, Question, random_call, tables_read
from attar.prune.scales import Factors, multiply_rows
from attar.prune.structure import Kept
from attar.prune.undisturbed import copied

ROUNDING = 1e-14
"""Relative change of weights that tells whether an answer in train mode can be compared: much more than rounding makes."""


class ProofError(RuntimeError):
    """A cut network does not compute what the masked original does. Nothing was changed."""


def proving_copy(model: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in which no tensor is constant: a zero or one everywhere would hide an error behind it."""
    twin = copied(model).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in named_tensors(twin).values():
            if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()):
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
                tensor.copy_(tensor * (0.5 + noise) if bool(tensor.any()) else 0.2 * (noise - 0.5))
    return twin


class Proof:
    """One cut to be proved: the masked original's answer, which every candidate must give.

    Args:
        model: the network as it is now.
        before, after: masks over the units as captured, now and after the cut.
        carried: factors that earlier cuts put on rows, by rows as captured; the original lacks them.
        question: what an earlier proof of this network asked; looked for unless given.

    Raises:
        ProofError: the original cannot be asked anything.
    """

    def __init__(
        self,
        model: nn.Module,
        coupled: Coupled,
        before: Kept,
        after: Kept,
        carried: Factors,
        question: Question | None = None,
    ) -> None:
        self._model, self._coupled = model, coupled
        twin = proving_copy(model)
        device = next(iter(named_tensors(twin).values())).device
        self._tables = tables_read(coupled.captured.evaluation)
        full, left = full_tensors(twin, coupled, before, carried), coupled.label_kept(after)
        self._expected, self._call, self.question = self._asked(twin, full, left, device, question)
        self._trained = self._masked_training(twin, full, left)
        self._trains = self._answers_in_training(twin) if coupled.captured.training is None else None
        self._twin: nn.Module | None = twin

    def candidate(self) -> nn.Module:
        """A float64 network to be cut and held against the answer, each time the same one."""
        twin, self._twin = self._twin, None  # the first is there; most cuts need no other
        return proving_copy(self._model) if twin is None else twin

    def error(self, small: nn.Module) -> float:
        """Relative error of a cut candidate in eval mode; that in train mode where only this is too large.

        Raises:
            Exception: the candidate does not run in one of the modes.
        """
        error = relative_error(self._expected, output(small, self._call), self.question.change)
        if error <= TOLERANCE and self._coupled.captured.training is not None:
            trained = self._training_error(small)
            return error if trained <= TOLERANCE else trained
        if error <= TOLERANCE and self._trains is not None:
            self._run_in_training(small, self._trains)
        return error

    def _answers_in_training(self, twin: nn.Module) -> int | None:
        """How many tensors the uncut network answers with in train mode; None where it does not run so with the example."""
        try:
            return len(output(copied(twin), self._call, training=True))
        except Exception:  # it may want targets, say: then nothing can be asked of the cut one either
            return None

    def _run_in_training(self, small: nn.Module, answers: int) -> None:
        """See that a candidate whose train mode could not be captured runs in it all the same, as the uncut one does."""
        try:
            found = len(output(small, self._call, training=True))
        except Exception as problem:
            told = " ".join(str(problem).split())
            raise RuntimeError(f"does not run in train mode: {type(problem).__name__}: {told}") from problem
        if found != answers:
            raise RuntimeError(f"answers with {found} tensors in train mode, and with {answers} before the cut")

    def _training_error(self, small: nn.Module) -> float:
        """The same in train mode; nothing where its answer is no measure: it draws numbers, or hangs on rounding."""
        buffers = [(buffer, buffer.clone()) for buffer in small.buffers()]
        found = output(small, self._call, training=True)
        if self._trained is None:
            return 0.0
        error = relative_error(self._trained, found)
        if error <= TOLERANCE or not same_shapes(self._trained, found):
            return error
        for buffer, before in buffers:
            buffer.copy_(before)
        for tensor in small.parameters():
            if tensor.is_floating_point():
                tensor.mul_(1 + ROUNDING * torch.randn_like(tensor))
        return error if relative_error(found, output(small, self._call, training=True)) <= TOLERANCE else 0.0

    def _asked(
        self,
        twin: nn.Module,
        full: dict[str, torch.Tensor],
        left: torch.Tensor,
        device: torch.device,
        question: Question | None,
    ) -> tuple[list[torch.Tensor], tuple[Any, Any], Question]:
        """The masked original's answer, to which inputs, and what sort of inputs these are.

        Normal numbers are asked first, then others where the answer has infinities or NaN (a logarithm takes numbers above 0),
        cannot be had, or is always the same.
        """

        def answered(asked: Question, seed: int = 0) -> tuple[list[torch.Tensor], tuple[Any, Any]]:
            captured, tables = self._coupled.captured, self._tables if asked.drawn else None
            call = random_call(captured.arguments, captured.keywords, device, seed, asked.numbers, tables)
            return self._answer(twin, full, left, False, call), call

        if question is not None:
            with suppress(Exception):
                answer, call = answered(question)
                if not any(bool(tensor.isnan().any()) for tensor in answer):
                    return answer, call, question
        best, least, problem = None, 0, None
        for asked in QUESTIONS:
            if not asked.drawn and not self._tables:
                continue
            try:
                answer, call = answered(asked)
            except Exception as error:
                problem = problem or error
                continue
            infinite = not_finite(answer)
            if best is not None and (infinite > least or (infinite == least and not best[2].says_little)):
                continue
            try:
                other = answered(asked, seed=1)[0]
            except Exception:  # other numbers of the same kind, but it cannot take them
                other = answer
            whole = not any(tensor.is_floating_point() or tensor.is_complex() for tensor in answer)
            change = tuple(map(largest_change, answer, other)) if same_shapes(answer, other) else (1.0,) * len(answer)
            now = Question(asked.numbers, asked.drawn, change, whole)
            if best is None or infinite < least or not now.says_little:
                best, least = (answer, call, now), infinite
            if not least and not best[2].says_little:
                break
        if best is None:
            told = " ".join(str(problem).split())
            raise ProofError(f"the cut was not done: its masked original cannot be run; {told}") from problem
        if any(bool(tensor.isnan().any()) for tensor in best[0]):
            raise ProofError(
                "the cut was not done: the network answers with NaN, for normal random inputs and for random inputs in the "
                "range of the example, so that nothing can be compared; give example inputs that it answers with numbers"
            )
        return best

    def _masked_training(
        self, twin: nn.Module, full: dict[str, torch.Tensor], left: torch.Tensor
    ) -> list[torch.Tensor] | None:
        """None where there is no graph of train mode, or it cannot be run masked."""
        if self._coupled.captured.training is None:
            return None
        try:
            return self._answer(twin, full, left, True, self._call)
        except Exception:
            return None

    def _answer(
        self,
        twin: nn.Module,
        full: dict[str, torch.Tensor],
        left: torch.Tensor,
        training: bool,
        call: tuple[Any, Any],
    ) -> list[torch.Tensor]:
        walk = self._coupled.walks[1 if training else 0]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return tree_unflatten(Masked(walk, left, full).answer(tree_leaves((args, kwargs))), walk.graph.specs[1])

        return output(_hooked(twin, forward), call, training)


def _hooked(model: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A module that computes by `forward`, with the hooks that `model` has on its answer."""
    other = nn.Module()
    other.forward = forward
    other._forward_hooks = model._forward_hooks
    other._forward_hooks_with_kwargs = model._forward_hooks_with_kwargs
    return other


def full_tensors(model: nn.Module, coupled: Coupled, masks: Kept, carried: Factors) -> dict[str, torch.Tensor]:
    """Parameters and buffers as captured, by every name: without the factors that rows carry, zeros where something went."""
    tensors = named_tensors(model)
    lost: dict[str, list[tuple[int, torch.Tensor]]] = {}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for (name, dim), (group, unit) in coupled.places.items():
        left = torch.ones(len(group), dtype=torch.bool)
        for number in set(group[group >= 0].tolist()):
            mine = torch.from_numpy(group == number)
            left[mine] = masks[number][torch.from_numpy(unit)[mine]]
        if not bool(left.all()):
            lost.setdefault(name, []).append((dim, torch.nonzero(left)[:, 0]))
            shapes[name][dim] = len(left)
    first = {name: spread(t.detach(), tuple(shapes[name]), lost.get(name, [])) for name, t in tensors.items()}
    for name, factor in carried.items():
        first[name] = first[name].clone()  # it may be the model's own
        multiply_rows(first[name], 1 / factor)
    return {alias: first[name] for alias, name in coupled.captured.aliases.items()}
