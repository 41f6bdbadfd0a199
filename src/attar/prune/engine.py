"""The engine: capture once, then cut again and again, each cut chosen under a budget, proved, and done in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from attar.models import in_mode
from attar.prune.allocation import BudgetError, choose, find_allocation, smallest
from attar.prune.attributes import NumberPlaces, Used, joined, mended_attributes, numbers_by_use, part_paths
from attar.prune.capture import Example, batch_is_free, copied
from attar.prune.cost import COUNTED, CostModel
from attar.prune.coupling import couple_model
from attar.prune.importance import Context, Importance, find_importance, score
from attar.prune.ladder import ladders
from attar.prune.latency import Latency, check_smallest, choose_by_latency, measure_latency
from attar.prune.modules import named_tensors
from attar.prune.parts import as_captured, capture_parts
from attar.prune.proof import TOLERANCE, Proof, ProofError, Question, double_precision
from attar.prune.propagate import Walk
from attar.prune.saved import saved_bytes
from attar.prune.scales import Factors, multiply_rows, relative, width_factors
from attar.prune.shipped import running, ship
from attar.prune.shrink import kept_indices, merged_masks, shrunk
from attar.prune.structure import Group, Kept, same_units
from attar.prune.surgery import Attributes, Indices, cut_tensors, layer_attributes, plain_attributes, set_attributes
from attar.prune.uses import Uses, mended_by_use, size_uses
from attar.prune.ways import Again, Differs, Way, WayError, first_that_works
from attar.recipe.budget import Budget, as_budget


@dataclass(frozen=True)
class Cost:
    """What a network costs: parameters, multiply-accumulates of one sample, bytes of the file of its weights."""

    params: int
    macs: int
    bytes: int

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Cut:
    """What one step did."""

    removed: dict[str, int]
    """Group -> units that went; groups that lost none are absent."""
    widths: dict[str, tuple[int, int]]
    """Group -> units before and after the step."""
    kept: Indices
    """Tensor -> [(dim, indices that stay)], to cut optimiser and averaged state the same way."""
    scaled: dict[str, torch.Tensor]
    """Parameter -> float64 (rows that stay,): what its rows were multiplied by, so that attention keeps its scale when heads
    get narrower. Averaged weights must be multiplied likewise."""
    proof: float
    """Relative error in float64 between the masked network and the cut one."""
    before: Cost
    after: Cost
    notes: tuple[str, ...] = field(default=())
    """What the user should know: units that a norm mixes, operations without a rule."""


RUNS = "runs"
"""Name of the entry of a state that says who runs the network, beside the groups."""


class Pruner:
    """Cuts a network to budgets, in as many steps as wanted; the network is captured once.

    Args:
        model: cut in place. Parameters stay the same objects.
        example_inputs: a tensor, a tuple of arguments or a dict of keywords that `model` can be called with. Dimension 0 of
            every tensor is the batch, and costs are those of one sample; where tensors differ in it, the whole call is one.
        importance: a name in `attar.prune.importance.IMPORTANCES`, `package.module:function`, or a function (parameters, group,
            context) -> (size,).
        allocation: `even`, `global` or `isomorphic`.
        protect: names or patterns of modules or tensors whose units all stay.
        policy: `normal`, or `strict` to keep units that a norm or softmax mixes.
        round_to: groups that are cut keep a multiple of this.
        floors: least units per group, one for all or by name or pattern.
        prove: whether every cut is proved before it is done.

    Raises:
        ValueError: an unknown name or pattern, or a network that cannot be captured; the network is untouched.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Example,
        importance: str | Importance = "group_norm",
        allocation: str = "even",
        protect: Sequence[str] = (),
        policy: str = "normal",
        round_to: int = 1,
        floors: Any = None,
        prove: bool = True,
    ) -> None:
        find_importance(importance)
        find_allocation(allocation)
        self.model, self.importance, self.allocation = model, importance, allocation
        self.round_to, self.floors, self.prove = round_to, floors, prove
        self.protect, self.policy = protect, policy
        self.coupled = couple_model(model, example_inputs, protect, policy)
        self.original = self.coupled.structure
        self.structure = self.original
        self.costs = CostModel(self.original)
        self.masks: Kept = {i: torch.ones(group.size, dtype=torch.bool) for i, group in enumerate(self.original.groups)}
        self._attributes = plain_attributes(model)
        self._ran = running(model)
        """Graphs that modules ran before this: they were captured instead of the code."""
        self._dtypes = {name: tensor.dtype for name, tensor in named_tensors(model).items()}
        self.way = Way()
        self._original_cost = self.cost()
        self._original_latency: dict[tuple[int, int], float] = {}
        self.why_graph = ""
        """Why the network's own code could not follow a cut as it was."""
        self._traced = self.coupled
        """As captured first, which a quick trace may have done."""
        self._uses: Uses | None = None
        self._uses_asked = False
        self._question: Question | None = None
        """What the first proof asked: the others ask the same."""
        self._only_traced = False
        """Whether the quick trace stays though a graph is needed."""
        self._captured_parts: dict[str, list[Walk]] = {}
        self._last: tuple[Way, torch.Tensor, Attributes] | None = None
        """The numbers mended last: a cut asks for them when it is tried, and when it is done."""
        self._places: NumberPlaces | None = None
        """Where modules' numbers may stand, for the walks of now."""
        self._known_factors: list[tuple[Way, torch.Tensor, Factors]] = []
        """Those of the last two masks: a cut needs what holds before it and after it."""

    @property
    def mode(self) -> str:
        """`module` while the network runs its own code, `graph` once its captured graph had to take over."""
        return self.way.mode

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of the modules that run their part of the captured graph, as their code cannot follow; the rest runs its own."""
        return tuple(self._parts(self.way)) if self.mode == "module" else ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups as they are now."""
        return self.structure.groups

    @property
    def reports(self) -> tuple[str, ...]:
        """Operations without a rule, and what else the user should know about the capture."""
        return self.coupled.reports

    def cost(self) -> Cost:
        """What the network costs now."""
        return self._cost(named_tensors(self.model))

    def widths(self) -> dict[str, int]:
        """Units of each group now, for groups that may be cut."""
        return {group.name: group.size for group in self.groups if not group.protected}

    def latency(self, batch: int = 1, threads: int = 1, kept: Kept | None = None) -> Latency:
        """Measure the network as it is now, or a copy of it cut to the units kept, on the example's first sample.

        Raises:
            ProofError: no such copy could be made.
        """
        example = self.coupled.captured.keywords or self.coupled.captured.arguments
        if not kept:
            return measure_latency(self.model, example, batch, threads)
        indices, masks = kept_indices(self.structure, kept), merged_masks(self.masks, kept)

        def measured(way: Way) -> Latency:
            small = copied(self.model)
            self._apply(small, indices, masks, way)
            return measure_latency(small, example, batch, threads)

        try:
            return first_that_works(self.way, measured, self._parts)[1]
        except WayError as problem:
            raise ProofError(f"the cut network cannot be measured; {problem}") from None

    def limits(self, budget: Budget | Mapping[str, float]) -> dict[str, float]:
        """Absolute limits. Shares are of the network as captured; that of its latency must be asked for before a cut.

        Raises:
            ValueError: neither a budget nor a mapping of numbers.
        """
        if isinstance(budget, Mapping):
            if shares := [f"{kind}={limit!r}" for kind, limit in budget.items() if isinstance(limit, str)]:
                raise ValueError(
                    f"a mapping holds absolute limits: give attar.Budget({shares[0]}) for a share or a unit"
                )
            return dict(budget)
        budget = as_budget(budget)
        original: dict[str, float] = {**self._original_cost.as_dict()}
        if isinstance(budget.latency, str) and budget.latency.strip().endswith("%"):
            how = (budget.batch, budget.threads)
            if how not in self._original_latency:
                if self.structure is not self.original:
                    raise ValueError(
                        f"latency={budget.latency!r} is a share of the uncut network's latency, which was not measured "
                        "before the first cut: give seconds"
                    )
                self._original_latency[how] = self.latency(*how).seconds
            original["latency"] = self._original_latency[how]
        return budget.resolve(original)

    def minimum(self, budget: Budget | None = None) -> Cost:
        """The smallest network that can be reached from here; raises BudgetError if it breaks a counted limit."""
        least = Cost(**smallest(self.structure, **self._settings()))
        if budget is not None:
            limits = self.limits(budget)
            broken = {kind: limit for kind, limit in limits.items() if getattr(least, kind, 0) > limit}
            if broken:
                parts = [f"{k} <= {v:,} (the smallest reachable is {getattr(least, k):,})" for k, v in broken.items()]
                error = BudgetError(f"the budget cannot be met: {' and '.join(parts)}", least.as_dict())
                raise self._explained(error)
        return least

    def _explained(self, error: BudgetError) -> BudgetError:
        """With the operations without a rule: what they read stays whole."""
        if not self.reports:
            return error
        more = f" and {len(self.reports) - 3} more" if len(self.reports) > 3 else ""
        return BudgetError(f"{error}. This may be why: {'; '.join(self.reports[:3])}{more}", error.smallest)

    def check_latency(self, budget: Budget) -> None:
        """See that the smallest network reachable from here, timed once, is under the limit on latency, if there is one.

        Raises:
            BudgetError: it is not; with what it takes.
            ProofError: no such copy could be made.
        """
        limit, settings = self.limits(budget).get("latency"), self._settings()
        if limit is None:
            return
        alike = {i: torch.zeros(group.size, dtype=torch.float64) for i, group in enumerate(self.groups)}
        least = {"macs": smallest(self.structure, alike, **settings)["macs"]}
        kept = choose(self.structure, alike, least, self.allocation, **settings)
        check_smallest(self.latency(budget.batch, budget.threads, kept).seconds, limit)

    def plan(
        self,
        budget: Budget | Mapping[str, float],
        context: Context | None = None,
        later: Mapping[str, float] | None = None,
    ) -> Kept:
        """The units (of the network as it is now) that would stay; nothing is cut.

        A latency is measured on cut copies, with the budget's batch and threads (one of each, if limits are a mapping).
        `later` holds absolute limits that further cuts are to reach; what they need is not cut now.

        Raises:
            BudgetError: the limits cannot be met.
            ProofError: bytes are limited, and the cut network, whose file has to be known, does not equal the masked one.
        """
        counted = {kind: limit for kind, limit in (later or {}).items() if kind in COUNTED}
        limits, settings = self.limits(budget), {**self._settings(), "later": counted}
        scores = score(self.structure, named_tensors(self.model, buffers=False), self.importance, context)
        batch, threads = (budget.batch, budget.threads) if isinstance(budget, Budget) else (1, 1)

        def measure(kept: Kept) -> float:
            return self.latency(batch, threads, kept).seconds

        def chosen(limits: dict[str, float]) -> Kept:
            if "latency" not in limits:
                return choose(self.structure, scores, limits, self.allocation, **settings)
            return choose_by_latency(self.structure, scores, limits, measure, self.allocation, **settings)[0]

        try:
            return self._within_bytes(limits, chosen) if "bytes" in limits else chosen(limits)
        except BudgetError as error:
            raise self._explained(error) from None

    def _within_bytes(self, limits: dict[str, float], chosen: Callable[[dict[str, float]], Kept]) -> Kept:
        """Choose with room for what the file holds beside what is counted: the constants of graphs that the network runs.

        Which graphs a cut network has to run shows when it is proved; where they bring more, the choice is made again.
        """
        uncounted = self.cost().bytes - self.costs.cost()["bytes"]
        constants = any(walk.graph.constants for walk in self.coupled.walks)
        while True:
            try:
                kept = chosen({**limits, "bytes": limits["bytes"] - uncounted})
            except BudgetError as error:
                least = {**error.smallest, "bytes": error.smallest.get("bytes", 0) + uncounted}
                if uncounted <= 0 or least["bytes"] <= limits["bytes"]:
                    raise
                raise BudgetError(
                    f"the budget cannot be met: bytes <= {limits['bytes']:,} (the smallest reachable is {least['bytes']:,}, "
                    f"of which {uncounted:,} are constants of the captured graph, which the network has to run); "
                    "raise the limit, lower floors or round_to, or protect less",
                    least,
                ) from None
            more = self._uncounted(kept, constants) if constants or uncounted else 0
            if more <= uncounted:
                return kept
            uncounted = more

    def _uncounted(self, kept: Kept, prove: bool) -> int:
        """Bytes that the file of a network cut to these units holds beside what is counted."""
        indices, masks, small = kept_indices(self.structure, kept), merged_masks(self.masks, kept), copied(self.model)
        way = self._prove(indices, masks)[1] if prove and self.prove and indices else self.way
        self._apply(small, indices, masks, way)
        return saved_bytes(small) - self.costs.cost(kept)["bytes"]

    def plan_share(self, share: float, context: Context | None = None) -> Kept:
        """The units that stay when every group keeps this share of its units as captured, rounded down; nothing is cut."""
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r}: give a fraction above 0 and at most 1")
        settings = self._settings()
        falls = {i for i, whole in settings["original"].items() if self.groups[i].size > int(whole * share + 1e-9)}
        # Before the first cut all groups are scored: a criterion that cannot judge one says so while all is whole.
        only = None if self.structure is self.original else falls
        scores = score(self.structure, named_tensors(self.model, buffers=False), self.importance, context, only)
        kept: Kept = {}
        for ladder in ladders(
            self.structure, scores, None, settings["original"], settings["floors"], settings["round_to"]
        ):
            removed = ladder.removed(ladder.lowest_rung(int(ladder.original * share + 1e-9)))
            if len(removed):
                kept[ladder.group] = torch.ones(self.groups[ladder.group].size, dtype=torch.bool)
                kept[ladder.group][torch.from_numpy(removed)] = False
        return kept

    def step(self, budget: Budget | Mapping[str, float], context: Context | None = None) -> Cut:
        """Choose what stays under the limits, prove the cut, and do it in place.

        Args:
            budget: shares are of the network as captured; a mapping holds absolute limits.
            context: gradients, for criteria that need them.

        Raises:
            BudgetError: the limits cannot be met.
            ProofError: the cut network does not equal the masked one. In either case nothing was changed.
        """
        return self.cut(self.plan(budget, context))

    def cut(self, kept: Kept) -> Cut:
        """Remove all other units than these (of the network as it is now), proved and in place."""
        tensors = named_tensors(self.model)
        before, groups = self._cost(tensors), self.groups
        indices = kept_indices(self.structure, kept)
        empty = next(
            (f"{name} (dimension {dim})" for name, cuts in indices.items() for dim, i in cuts if not i.numel()), ""
        )
        if empty:
            raise ProofError(f"the cut was not done: nothing would be left of {empty}; keep one unit of it at least")
        structure = shrunk(self.structure, kept, indices)
        masks = merged_masks(self.masks, kept)
        error, way = self._prove(indices, masks) if self.prove and indices else (0.0, self.way)
        scaled = self._apply(self.model, indices, masks, way, tensors)
        self.way = way
        self.structure, self.masks, self.costs = structure, masks, self.costs.cut(kept, structure)
        widths = {old.name: (old.size, new.size) for old, new in zip(groups, structure.groups) if not old.protected}
        removed = {name: old - new for name, (old, new) in widths.items() if old > new}
        return Cut(removed, widths, indices, scaled, error, before, self._cost(tensors), self._notes(removed))

    def state(self) -> dict[str, torch.Tensor]:
        """Which units of the network as captured are left, group -> bool (size,); and who runs it, if not its own code."""
        left = {
            group.name: self.masks[i].clone() for i, group in enumerate(self.original.groups) if not group.protected
        }
        return left if self.way == Way() else {**left, RUNS: self.way.encoded()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Cut a freshly built original to what `state` told, without choosing; weights are then loaded over it.

        Raises:
            ValueError: the state is of another network, or this one was already cut.
        """
        if self.structure is not self.original:
            raise ValueError("restore needs a network that is not cut yet: build it anew, and a Pruner on it")
        names = {group.name: i for i, group in enumerate(self.original.groups)}
        kept: Kept = {}
        for name, mask in state.items():
            if name == RUNS:
                continue
            if name not in names or tuple(mask.shape) != (self.original.groups[names[name]].size,):
                raise ValueError(
                    f"the state has a group {name!r} of {tuple(mask.shape)} units, which this network lacks"
                )
            if not bool(mask.all()):
                kept[names[name]] = mask.to("cpu", torch.bool)
        indices, masks = kept_indices(self.original, kept), merged_masks(self.masks, kept)
        way = Way.decoded(state[RUNS]) if RUNS in state else Way()
        self._apply(self.model, indices, masks, way)
        self.way, self.structure, self.masks = way, shrunk(self.original, kept, indices), masks
        self.costs = self.costs.cut(kept, self.structure)

    def _cost(self, tensors: Mapping[str, torch.Tensor]) -> Cost:
        """Of the network with these tensors."""
        counted = self.costs.cost()
        # The file holds more than was captured, or numbers of another type.
        if self.mode == "graph" or self.parts or any(t.dtype != self._dtypes.get(n) for n, t in tensors.items()):
            counted["bytes"] = saved_bytes(self.model)
        return Cost(**counted)

    def _settings(self) -> dict[str, Any]:
        whole = {i: group.size for i, group in enumerate(self.original.groups)}
        return {"original": whole, "floors": self.floors, "round_to": self.round_to, "model": self.costs}

    def _notes(self, removed: Mapping[str, int]) -> tuple[str, ...]:
        mixing = [
            f"{group.name}: {note}" for group in self.original.groups if group.name in removed for note in group.notes
        ]
        weak = self._question is not None and self._question.says_little
        told = ("its answers tell little of what it computes, so the proof is weak",) if weak else ()
        return (*mixing, *told, *self.reports)

    def _apply(
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
        parts = self._parts(way)
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

    def _parts(self, way: Way) -> dict[str, list[Walk]]:
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
        parts = frozenset(self._parts(way))  # they may bring other labels
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

    def _prove(self, indices: Indices, masks: Kept) -> tuple[float, Way]:
        """(relative error, who runs the cut network)."""
        with double_precision(self.model):
            carried = self._factors(self.masks, self.way)
            proof = Proof(self.model, self.coupled, self.masks, masks, carried, self._question)
        self._question = proof.question
        left = self.coupled.label_kept(masks)
        tried: list[Any] = []

        def proved(way: Way) -> float:
            does = (way.mode, self._mended(left, masks, way), list(self._parts(way)))
            if does in tried:
                raise Again
            tried.append(does)
            with double_precision(self.model):
                small = proof.candidate()
                self._apply(small, indices, masks, way)
                error = proof.error(small)
            if not error <= TOLERANCE:
                raise Differs(f"differs from the masked network by {error:.2e} (relative)")
            return error

        try:
            way, error, why = first_that_works(self.way, proved, self._parts)
        except WayError as problem:
            raise ProofError(f"the cut was not done, as it could not be proved; {problem}") from None
        self.why_graph = why or self.why_graph
        return error, way
