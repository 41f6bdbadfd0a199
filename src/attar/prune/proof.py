"""Proof: the cut network must compute what the original computes with the removed units masked, in float64.

In eval mode, and in train mode too, with dropout that keeps everything, wherever a graph of train mode could be had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from attar.models import in_mode
from attar.prune.capture import Graph, copied
from attar.prune.coupling import Coupled
from attar.prune.masked import Masked, spread, widened
from attar.prune.modules import cards_of, named_tensors
from attar.prune.movement import MOVES
from attar.prune.propagate import operation_name
from attar.prune.scales import Factors, multiply_rows
from attar.prune.structure import Kept

TOLERANCE = 1e-10
"""Largest relative error that passes."""


ROUNDING = 1e-14
"""Relative change of weights that tells whether an answer in train mode can be compared: much more than rounding makes."""


NEXT_TO_NOTHING = 1e-3
"""An answer of which a smaller share changes with the inputs is compared by that share."""
ROUNDED = 1e-13
"""Relative differences that rounding in float64 may make of a number."""


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


@dataclass(frozen=True)
class Question:
    """What the networks are asked in proofs: which random inputs, and how far their answers change with them."""

    numbers: str
    """Where floating numbers come from: `normal` ones, the `range` of the example's, or the `example`'s own, shuffled over its
    samples: a column that is a category has no others."""
    drawn: bool
    """Ids from the whole of the table that they look up, where the example has the same everywhere."""
    change: tuple[float, ...] = ()
    """Of each tensor of the answer: the largest change between two random inputs, as a share of its largest magnitude."""
    whole: bool = False
    """Whether the answer is whole numbers alone."""

    @property
    def says_little(self) -> bool:
        """Whether a wrong cut could give the same answer: it does not depend on the inputs, or is of classes, say."""
        return self.whole or not any(self.change)


QUESTIONS = tuple(Question(numbers, drawn) for numbers in ("normal", "range", "example") for drawn in (True, False))


def random_call(
    arguments: Any,
    keywords: Any,
    device: torch.device,
    seed: int = 0,
    numbers: str = "normal",
    tables: Mapping[int, int] | None = None,
) -> tuple[Any, Any]:
    """The example's arguments with fresh float64 numbers where they were floating; see `Question` for which.

    `tables`: rows of the table that an argument (by its place in the flattened call) has ids of. Where all ids are the same,
    attention is uniform and hides errors, so others are drawn.
    """
    generator = torch.Generator().manual_seed(seed + 1)

    def fresh(place: int, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if not leaf.is_floating_point():
            rows = (tables or {}).get(place)
            if rows is not None and leaf.numel() > 1 and bool((leaf == leaf.reshape(-1)[0]).all()):
                leaf = torch.randint(rows, leaf.shape, generator=generator).to(leaf.dtype)
            return leaf.to(device)
        if numbers == "example" and leaf.dim():
            sample = torch.randint(len(leaf), leaf.shape, generator=generator)
            return leaf.detach().cpu().double().gather(0, sample).to(device)
        if numbers == "range" and (limits := _limits(leaf)) is not None:
            low, high = limits
            return (low + (high - low) * torch.rand(leaf.shape, generator=generator, dtype=torch.float64)).to(device)
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(device)

    leaves, spec = tree_flatten((arguments, keywords))
    made: tuple[Any, Any] = tree_unflatten([fresh(place, leaf) for place, leaf in enumerate(leaves)], spec)
    return made


def _tables(graph: Graph) -> dict[int, int]:
    """Place in the flattened call -> rows of the smallest table that this input looks up."""
    places, found = {name: place for place, name in enumerate(graph.inputs)}, dict[int, int]()
    for node in graph.module.graph.nodes:
        if operation_name(node.target) != "embedding":
            continue
        source = node.args[1]
        while (
            source.op == "call_function" and operation_name(source.target) in MOVES and len(source.all_input_nodes) == 1
        ):
            source = source.all_input_nodes[0]
        if source.name in places:
            rows, place = int(node.args[0].meta["val"].shape[0]), places[source.name]
            found[place] = min(rows, found.get(place, rows))
    return found


def _limits(example: torch.Tensor) -> tuple[float, float] | None:
    """Between which numbers an example lies, those that are finite; around it where it is constant, as that would hide errors."""
    numbers = example.detach()[example.isfinite()].double()
    if not numbers.numel():
        return None
    low, high = float(numbers.min()), float(numbers.max())
    if low < high:
        return low, high
    return (0.5 * low, 1.5 * low) if low else (0.0, 1.0)


class _Exact(TorchDispatchMode):
    """Casts to smaller floating types become casts to float64, and dropout, which draws by `bernoulli_`, keeps everything."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles in here; torch would load its compiler, a second or more, to keep it out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {key: widened(item) for key, item in (kwargs or {}).items()}
        if func is torch.ops.aten.bernoulli_.float:
            return args[0].fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        if func is torch.ops.aten.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **kwargs)


@contextmanager
def double_precision(model: nn.Module) -> Iterator[None]:
    """New floating tensors are float64 inside; random numbers that the model draws are drawn again after."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cards_of(model)):
            yield
    finally:
        torch.set_default_dtype(before)


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
        self._tables = _tables(coupled.captured.evaluation)
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
            infinite = _not_finite(answer)
            if best is not None and (infinite > least or (infinite == least and not best[2].says_little)):
                continue
            try:
                other = answered(asked, seed=1)[0]
            except Exception:  # other numbers of the same kind, but it cannot take them
                other = answer
            whole = not any(tensor.is_floating_point() or tensor.is_complex() for tensor in answer)
            change = tuple(map(_change, answer, other)) if same_shapes(answer, other) else (1.0,) * len(answer)
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


@torch.no_grad()
def output(model: nn.Module, call: tuple[Any, Any], training: bool = False) -> list[torch.Tensor]:
    """All tensors that the network answers with, in eval or train mode."""
    with in_mode(model, training), _Exact():
        found = model(*call[0], **call[1])
    if not isinstance(found, torch.Tensor | tuple | list | dict) and hasattr(found, "to_tuple"):
        found = found.to_tuple()
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]


def same_shapes(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether two answers are of as many tensors, of the same shapes."""
    return [tensor.shape for tensor in first] == [tensor.shape for tensor in second]


def _not_finite(answer: list[torch.Tensor]) -> int:
    """How many elements are infinite or NaN."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in answer)


def _change(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest difference over the largest magnitude, of what is finite; 1 at most."""
    a, b = (tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in (first, second))
    finite = a.isfinite() & b.isfinite()
    if not bool(finite.any()):
        return 0.0
    size = float(a.abs().where(finite, 0).max())
    return min(1.0, float((a - b).abs().where(finite, 0).max()) / size) if size else 0.0


def relative_error(
    first: list[torch.Tensor], second: list[torch.Tensor], change: Sequence[float] | None = None
) -> float:
    """Largest difference over the largest finite magnitude of the first; infinite where shapes or numbers of outputs differ.

    Infinities are equal to their like. NaN equals nothing.

    Args:
        first, second: the answers.
        change: of each tensor, how much of that magnitude changes with the inputs. Where it is next to nothing (one logit is
            -1e9, say), differences are measured by that, and what rounding makes of each number is no difference.
    """
    if not same_shapes(first, second):
        return float("inf")
    worst = 0.0
    for a, b, share in zip(
        first, second, change if change is not None and len(change) == len(first) else [1.0] * len(first)
    ):
        if not a.numel():
            continue
        a, b = (tensor.to(torch.promote_types(tensor.dtype, torch.float64)) for tensor in (a, b))
        size = a.abs()
        scale = float(size.where(size.isfinite(), 0).max().clamp_min(torch.finfo(torch.float64).tiny))
        difference = (a - b).abs().where(a != b, 0)
        if 0 < share < NEXT_TO_NOTHING:
            scale *= share
            difference = (difference - ROUNDED * size.where(size.isfinite(), 0)).clamp_min(0)
        error = float(difference.max()) / scale
        worst = max(worst, error if error == error else float("inf"))
    return worst
