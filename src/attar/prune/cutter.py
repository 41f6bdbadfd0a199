"""How a cut is done to a module: its tensors, the numbers and graphs that its code goes by, and the proof that it is right."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from attar.models import in_mode
from attar.prune.answers import TOLERANCE, double_precision
from attar.prune.attributes import NumberPlaces, Used, joined, mended_attributes, numbers_by_use, part_paths
from attar.prune.capture import Example
from attar.prune.coupling import couple_model
from attar.prune.graph import batch_is_free
from attar.prune.modules import named_tensors
from attar.prune.parts import as_captured, capture_parts
from attar.prune.proof import Proof, ProofError
from attar.prune.propagate import Walk
from attar.prune.questions import Question
from attar.prune.scales import Factors, multiply_rows, relative, width_factors
from attar.prune.shipped import running, ship
from attar.prune.structure import Kept, same_units
from attar.prune.surgery import Attributes, Indices, cut_tensors, layer_attributes, plain_attributes, set_attributes
from attar.prune.uses import Uses, mended_by_use, size_uses
from attar.prune.ways import Again, Differs, Way, WayError, first_that_works

RUNS, ASKED = ".runs", ".asked"
"""Names of the entries of a state that say who runs the network and what proofs ask; no group's name begins with a dot."""


class Cutter:
    """Cuts one network, or copies of it, to masks over its units as captured; keeps what it looked up for the next cut.

    Raises:
        ValueError: an unknown name or pattern, or a network that cannot be captured; the network is untouched.
    """

    def __init__(self, model: nn.Module, example: Example, protect: Sequence[str], policy: str) -> None:
        self.model, self.protect, self.policy = model, protect, policy
        self.coupled = couple_model(model, example, protect, policy)
        self.original = self.coupled.structure
        self.masks: Kept = {i: torch.ones(group.size, dtype=torch.bool) for i, group in enumerate(self.original.groups)}
        """What is left of the groups as captured."""
        self.way = Way()
        """Who runs what is left."""
        self.why_graph = ""
        """Why the network's own code could not follow a cut as it was."""
        self.question: Question | None = None
        """What the first proof asked: the others ask the same."""
        self._shapes = _parameter_shapes(model)
        """Of what is left: what cuts are planned for."""
        self._attributes = plain_attributes(model)
        self._ran = running(model)
        """Graphs that modules ran before this: they were captured instead of the code."""
        self._traced = self.coupled
        """As captured first, which a quick trace may have done."""
        self._uses: Uses | None = None
        self._uses_asked = False
        self._only_traced = False
        """Whether the quick trace stays though a graph is needed."""
        self._captured_parts: dict[str, list[Walk]] = {}
        self._last: tuple[Way, torch.Tensor, Attributes] | None = None
        """The numbers mended last: a cut asks for them when it is tried, and when it is done."""
        self._places: NumberPlaces | None = None
        """Where modules' numbers may stand, for the walks of now."""
        self._known_factors: list[tuple[Way, torch.Tensor, Factors]] = []
        """Those of the last two masks: a cut needs what holds before it and after it."""

    def cut(
        self, indices: Indices, masks: Kept, way: Way, tensors: Mapping[str, torch.Tensor] | None = None
    ) -> Factors:
        """Cut the network itself, in place; returns what rows were multiplied by."""
        scaled = self.apply(self.model, indices, masks, way, tensors)
        self.masks, self.way, self._shapes = masks, way, _parameter_shapes(self.model)
        return scaled

    def check_unchanged(self) -> None:
        """See that the parameters have the shapes that were captured, or that the last cut left; ValueError if not."""
        now = _parameter_shapes(self.model)
        if now == self._shapes:
            return
        name = next(name for name in {**self._shapes, **now} if now.get(name) != self._shapes.get(name))
        was, is_ = (str(shapes[name]) if name in shapes else "missing" for shapes in (self._shapes, now))
        raise ValueError(
            f"the network was changed since it was captured or last cut: {name} was {was} and is {is_}; "
            "make a new Pruner of it"
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Which units as captured are left, group -> bool (size,); who runs the network, if not its own code; what proofs ask."""
        state = {
            group.name: self.masks[i].clone() for i, group in enumerate(self.original.groups) if not group.protected
        }
        if self.way != Way():
            state[RUNS] = _encoded(self.way)
        if self.question is not None:
            state[ASKED] = _encoded(self.question)
        return state

    def told(self, state: Mapping[str, torch.Tensor]) -> tuple[Kept, Way, Question | None]:
        """What a `state` says: the units that are left of groups that lost any, who runs the network, what proofs ask.

        Raises:
            ValueError: it is of another network.
        """
        names = {group.name: i for i, group in enumerate(self.original.groups)}
        kept: Kept = {}
        for name, mask in state.items():
            if name in (RUNS, ASKED):
                continue
            if name not in names or tuple(mask.shape) != (self.original.groups[names[name]].size,):
                raise ValueError(
                    f"the state has a group {name!r} of {tuple(mask.shape)} units, which this network lacks"
                )
            if not bool(mask.all()):
                kept[names[name]] = mask.to("cpu", torch.bool)
        way = Way(**_decoded(state[RUNS])) if RUNS in state else Way()
        return kept, way, Question(**_decoded(state[ASKED])) if ASKED in state else None

    def apply(
        self,
        model: nn.Module,
        indices: Indices,
        masks: Kept,
        way: Way,
        tensors: Mapping[str, torch.Tensor] | None = None,
    ) -> Factors:
        """Cut a module of the present shapes, whose named `tensors` may be given; returns what rows were multiplied by.

        Everything that can fail comes before the first change.
        """
        parts = self.parts(way)
        tensors = named_tensors(model) if tensors is None else tensors
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        for name, cuts in indices.items():
            for dim, index in cuts:
                shapes[name][dim] = index.numel()
        by_alias = {alias: tuple(shapes[first]) for alias, first in self.coupled.captured.aliases.items()}
        left = self.coupled.label_kept(masks)
        mended = self._mended(left, masks, way)
        attributes = joined(mended, layer_attributes(model, by_alias, self._attributes))
        change = relative(self._factors(self.masks, self.way), self._factors(masks, way))
        ship(model, {"": self.coupled.walks} if way.mode == "graph" else parts, left, self.coupled.captured.aliases)
        scaled = {name: self._now(name, factor, masks) for name, factor in change.items()}
        cut_tensors(model, tensors, indices)
        set_attributes(model, attributes)
        for name, factor in scaled.items():
            multiply_rows(tensors[name].data, factor)
        return scaled

    def _mended(self, left: torch.Tensor, masks: Kept, way: Way) -> Attributes:
        """Numbers that the modules' own code reads, for the labels that are left; the graph needs none."""
        if way.mode == "graph":
            return {}
        if self._last is None or self._last[0] != way or not torch.equal(self._last[1], left):
            if self._places is None or self._places.walks is not self.coupled.walks:
                self._places = NumberPlaces(self.coupled.walks, self.model, self._attributes)
            self._last = (way, left, mended_attributes(self._places, left, way.levels, lambda: self._used(masks)))
        return self._last[2]

    def _used(self, masks: Kept) -> Used | None:
        """What attributes must be by their uses, where a quick trace could be had of these."""
        traced = self._traced
        if not self._uses_asked and not traced.captured.evaluation.exported:
            whole = as_captured(self.model, self._attributes, traced.walks[0], self._ran)
            call = (traced.captured.arguments, traced.captured.keywords)
            with suppress(Exception), torch.no_grad(), in_mode(whole, False):  # code may do what these numbers cannot
                self._uses = size_uses(whole, numbers_by_use(whole, self._attributes), traced.walks[0], call)
        self._uses_asked = True
        return None if self._uses is None else mended_by_use(self._uses, traced.walks[0], traced.label_kept(masks))

    def parts(self, way: Way) -> dict[str, list[Walk]]:
        """The graphs of the modules that run their part of the captured one."""
        paths = part_paths(self.model, way.levels)
        if paths or way.mode == "graph":
            self._export()
        new = [path for path in paths if path not in self._captured_parts]
        if new:
            coupled = self.coupled
            found = capture_parts(self.model, self._attributes, coupled.captured, coupled.walks, self._ran, new)
            self._captured_parts |= {path: found.get(path, []) for path in new}
        return {path: self._captured_parts[path] for path in paths if self._captured_parts[path]}

    def _export(self) -> None:
        """Have graphs of `torch.export` before one is shipped: a quick trace was seen with two sizes of the batch alone."""
        captured = self.coupled.captured
        if captured.evaluation.exported or self._only_traced:
            return
        whole = as_captured(self.model, self._attributes, self.coupled.walks[0], self._ran)
        found = couple_model(whole, captured.keywords or captured.arguments, self.protect, self.policy, quick=False)
        if not same_units(found.structure, self.original):
            raise RuntimeError("torch.export finds other units than a trace of the network does")
        if batch_is_free(captured.evaluation) and not batch_is_free(found.captured.evaluation):
            self._only_traced = True  # code that asks for `len(x)` has the batch written into what is exported
        else:
            self.coupled, self._last, self._known_factors = found, None, []

    def _factors(self, masks: Kept, way: Way) -> Factors:
        """What the weights of a network cut to `masks` carry, by rows as captured; a graph says its scales itself."""
        if way.mode == "graph":
            return {}
        parts = frozenset(self.parts(way))  # they may bring other labels
        left = self.coupled.label_kept(masks)
        for known_way, known_left, known in self._known_factors:
            if known_way == way and torch.equal(known_left, left):
                return known
        walk, aliases = self.coupled.walks[0], self.coupled.captured.aliases
        found = width_factors(walk, left, self._attributes, aliases, parts)
        self._known_factors = [(way, left, found), *self._known_factors[:1]]
        return found

    def _now(self, name: str, factor: torch.Tensor, masks: Kept) -> torch.Tensor:
        """Of a figure for each row as captured, those of the rows that are left."""
        return factor[self.coupled.rows_left(name, masks)]

    def prove(self, indices: Indices, masks: Kept) -> tuple[float, Way]:
        """(relative error, who runs the cut network)."""
        with double_precision(self.model):
            carried = self._factors(self.masks, self.way)
            proof = Proof(self.model, self.coupled, self.masks, masks, carried, self.question)
        self.question = proof.question
        left = self.coupled.label_kept(masks)
        tried: list[Any] = []

        def proved(way: Way) -> float:
            does = (way.mode, self._mended(left, masks, way), list(self.parts(way)))
            if does in tried:
                raise Again
            tried.append(does)
            with double_precision(self.model):
                small = proof.candidate()
                self.apply(small, indices, masks, way)
                error = proof.error(small)
            if not error <= TOLERANCE:
                raise Differs(f"differs from the masked network by {error:.2e} (relative)")
            return error

        try:
            way, error, why = first_that_works(self.way, proved, self.parts)
        except WayError as problem:
            raise ProofError(f"the cut was not done, as it could not be proved; {problem}") from None
        self.why_graph = why or self.why_graph
        return error, way


def _parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(model, buffers=False).items()}


def _encoded(told: Way | Question) -> torch.Tensor:
    """uint8 (bytes,): JSON, to stand among the tensors of a state."""
    return torch.tensor(list(json.dumps(dataclasses.asdict(told), sort_keys=True).encode()), dtype=torch.uint8)


def _decoded(tensor: torch.Tensor) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(bytes(tensor.tolist()))
    return told
