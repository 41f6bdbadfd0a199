"""The engine: capture once, then cut again and again, each cut chosen under a budget, proved, and done in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from attar.prune.allocation import BudgetError, choose, find_allocation, smallest
from attar.prune.capture import Example
from attar.prune.cost import COUNTED, CostModel
from attar.prune.cutter import Cutter
from attar.prune.importance import Context, Importance, find_importance, score
from attar.prune.ladder import ladders
from attar.prune.latency import Latency, check_smallest, choose_by_latency, measure_latency
from attar.prune.modules import named_tensors
from attar.prune.proof import ProofError
from attar.prune.saved import saved_bytes
from attar.prune.shrink import check_kept, kept_indices, merged_masks, shrunk
from attar.prune.structure import Group, Kept
from attar.prune.surgery import Indices
from attar.prune.undisturbed import copied
from attar.prune.ways import Way, WayError, first_that_works
from attar.recipe.budget import Budget, absolute, as_budget


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
        self.cutter = Cutter(model, example_inputs, protect, policy)
        self.structure = self.cutter.original
        self.costs = CostModel(self.structure)
        self._dtypes = {name: tensor.dtype for name, tensor in named_tensors(model).items()}
        self._original_cost = self.cost()
        self._original_latency: dict[tuple[int, int], float] = {}

    @property
    def mode(self) -> str:
        """`module` while the network runs its own code, `graph` once its captured graph had to take over."""
        return self.cutter.way.mode

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of the modules that run their part of the captured graph, as their code cannot follow; the rest runs its own."""
        return tuple(self.cutter.parts(self.cutter.way)) if self.mode == "module" else ()

    @property
    def why_graph(self) -> str:
        """Why the network's own code could not follow a cut as it was."""
        return self.cutter.why_graph

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups as they are now."""
        return self.structure.groups

    @property
    def reports(self) -> tuple[str, ...]:
        """Operations without a rule, and what else the user should know about the capture."""
        return self.cutter.coupled.reports

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
        example = self.cutter.coupled.captured.keywords or self.cutter.coupled.captured.arguments
        if not kept:
            return measure_latency(self.model, example, batch, threads)
        indices, masks = kept_indices(self.structure, kept), merged_masks(self.cutter.masks, kept)

        def measured(way: Way) -> Latency:
            small = copied(self.model)
            self.cutter.apply(small, indices, masks, way)
            return measure_latency(small, example, batch, threads)

        try:
            return first_that_works(self.cutter.way, measured, self.cutter.parts)[1]
        except WayError as problem:
            raise ProofError(f"the cut network cannot be measured; {problem}") from None

    def limits(self, budget: Budget | Mapping[str, float]) -> dict[str, float]:
        """Absolute limits. Shares are of the network as captured; that of its latency must be asked for before a cut.

        Raises:
            ValueError: neither a budget nor a mapping of numbers.
        """
        if isinstance(budget, Mapping):
            return absolute(budget)
        budget = as_budget(budget)
        original: dict[str, float] = {**self._original_cost.as_dict()}
        if isinstance(budget.latency, str) and budget.latency.strip().endswith("%"):
            how = (budget.batch, budget.threads)
            if how not in self._original_latency:
                if self.structure is not self.cutter.original:
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
            ValueError: parameters of the network came, went or have other shapes since the last cut.
        """
        self.cutter.check_unchanged()
        limits = self.limits(budget)
        last = {kind: limit for kind, limit in (later or {}).items() if kind in COUNTED}
        scores = score(self.structure, named_tensors(self.model, buffers=False), self.importance, context)
        batch, threads = (budget.batch, budget.threads) if isinstance(budget, Budget) else (1, 1)

        def measure(kept: Kept) -> float:
            return self.latency(batch, threads, kept).seconds

        def chosen(uncounted: int) -> Kept:
            settings = {**self._settings(), "later": _without(last, uncounted)}
            counted = _without(limits, uncounted)
            if "latency" not in limits:
                return choose(self.structure, scores, counted, self.allocation, **settings)
            return choose_by_latency(self.structure, scores, counted, measure, self.allocation, **settings)[0]

        try:
            return self._within_bytes(limits["bytes"], chosen) if "bytes" in limits else chosen(0)
        except BudgetError as error:
            raise self._explained(error) from None

    def _within_bytes(self, limit: float, chosen: Callable[[int], Kept]) -> Kept:
        """Choose with room for what the file holds beside what is counted: the constants of graphs that the network runs.

        Which graphs a cut network has to run shows when it is proved; where they bring more, the choice is made again.
        """
        uncounted = self.cost().bytes - self.costs.cost()["bytes"]
        constants = any(walk.graph.constants for walk in self.cutter.coupled.walks)
        while True:
            try:
                kept = chosen(uncounted)
            except BudgetError as error:
                least = {**error.smallest, "bytes": error.smallest.get("bytes", 0) + uncounted}
                if uncounted <= 0 or least["bytes"] <= limit:
                    raise
                raise BudgetError(
                    f"the budget cannot be met: bytes <= {limit:,} (the smallest reachable is {least['bytes']:,}, "
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
        indices, masks, small = (
            kept_indices(self.structure, kept),
            merged_masks(self.cutter.masks, kept),
            copied(self.model),
        )
        way = self.cutter.prove(indices, masks)[1] if prove and self.prove and indices else self.cutter.way
        self.cutter.apply(small, indices, masks, way)
        return saved_bytes(small) - self.costs.cost(kept)["bytes"]

    def plan_share(self, share: float, context: Context | None = None) -> Kept:
        """The units that stay when every group keeps this share of its units as captured, rounded down; nothing is cut."""
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r}: give a fraction above 0 and at most 1")
        self.cutter.check_unchanged()
        settings = self._settings()
        falls = {i for i, whole in settings["original"].items() if self.groups[i].size > int(whole * share + 1e-9)}
        # Before the first cut all groups are scored: a criterion that cannot judge one says so while all is whole.
        only = None if self.structure is self.cutter.original else falls
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
        """Remove all other units than these (of the network as it is now), proved and in place.

        Args:
            kept: number of a group -> bool (size,), True for units that stay; other groups stay whole.

        Raises:
            ProofError: the cut network does not equal the masked one. Nothing was changed.
            ValueError: `kept` is of another network, or this one's parameters are others since the last cut.
        """
        self.cutter.check_unchanged()
        check_kept(self.structure, kept)
        tensors = named_tensors(self.model)
        before, groups = self._cost(tensors), self.groups
        indices = kept_indices(self.structure, kept)
        empty = next(
            (f"{name} (dimension {dim})" for name, cuts in indices.items() for dim, i in cuts if not i.numel()), ""
        )
        if empty:
            raise ProofError(f"the cut was not done: nothing would be left of {empty}; keep one unit of it at least")
        structure = shrunk(self.structure, kept, indices)
        masks = merged_masks(self.cutter.masks, kept)
        error, way = self.cutter.prove(indices, masks) if self.prove and indices else (0.0, self.cutter.way)
        scaled = self.cutter.cut(indices, masks, way, tensors)
        self.structure, self.costs = structure, self.costs.cut(kept, structure)
        widths = {old.name: (old.size, new.size) for old, new in zip(groups, structure.groups) if not old.protected}
        removed = {name: old - new for name, (old, new) in widths.items() if old > new}
        return Cut(removed, widths, indices, scaled, error, before, self._cost(tensors), self._notes(removed))

    def state(self) -> dict[str, torch.Tensor]:
        """Which units of the network as captured are left, group -> bool (size,); beside the groups, how it is run and proved."""
        return self.cutter.state()

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Cut a freshly built original to what `state` told, without choosing; weights are then loaded over it.

        Raises:
            ValueError: the state is of another network, or this one was already cut.
        """
        original = self.cutter.original
        if self.structure is not original:
            raise ValueError("restore needs a network that is not cut yet: build it anew, and a Pruner on it")
        kept, way, self.cutter.question = self.cutter.told(state)
        indices = kept_indices(original, kept)
        self.cutter.cut(indices, merged_masks(self.cutter.masks, kept), way)
        self.structure = shrunk(original, kept, indices)
        self.costs = self.costs.cut(kept, self.structure)

    def _cost(self, tensors: Mapping[str, torch.Tensor]) -> Cost:
        """Of the network with these tensors."""
        counted = self.costs.cost()
        # The file holds more than was captured, or numbers of another type.
        if self.mode == "graph" or self.parts or any(t.dtype != self._dtypes.get(n) for n, t in tensors.items()):
            counted["bytes"] = saved_bytes(self.model)
        return Cost(**counted)

    def _settings(self) -> dict[str, Any]:
        whole = {i: group.size for i, group in enumerate(self.cutter.original.groups)}
        return {"original": whole, "floors": self.floors, "round_to": self.round_to, "model": self.costs}

    def _notes(self, removed: Mapping[str, int]) -> tuple[str, ...]:
        mixing = [
            f"{group.name}: {note}"
            for group in self.cutter.original.groups
            if group.name in removed
            for note in group.notes
        ]
        weak = self.cutter.question is not None and self.cutter.question.says_little
        told = ("its answers tell little of what it computes, so the proof is weak",) if weak else ()
        return (*mixing, *told, *self.reports)


def _without(limits: Mapping[str, float], uncounted: int) -> dict[str, float]:
    """Limits on what is counted, of a file that holds `uncounted` bytes beside it."""
    return {**limits, "bytes": limits["bytes"] - uncounted} if "bytes" in limits else dict(limits)
