"""The stage prune: cut step by step under a falling budget, prove every cut, fine-tune after it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from attar.distil import Batch, Objective
from attar.pipeline.session import Session
from attar.pipeline.stage_loop import StageLoop
from attar.pipeline.teaching import objective
from attar.prune import (
    BudgetError,
    Context,
    GroupLasso,
    GrowingPenalty,
    Pruner,
    WithPenalty,
    collect_gradients,
    describe,
    reshape,
)
from attar.prune.importance import needs_gradients
from attar.prune.structure import Kept
from attar.recipe import Budget, Prune, Training
from attar.recipe.types import Sparse
from attar.train import TrainState, steps_for

KEPT = "kept/"
"""Prefix of the engine's own tensors in checkpoints and results."""
STAYS = "stays/"
"""Prefix, in checkpoints of sparse learning, of the units that its penalty leaves alone."""
GRADIENT_BATCHES, GRADIENT_BATCH = 8, 64
"""Training images that gradient criteria look at: five hundred are plenty to rank units."""


def make_pruner(session: Session) -> Pruner:
    """The engine on a freshly built student, as the recipe sets it up.

    Raises:
        ValueError: a name in the recipe's [prune] table is unknown.
    """
    settings = session.recipe.prune
    assert settings is not None
    if session.captured:
        return session.captured.pop()
    return Pruner(
        session.build(session.recipe.student),
        session.example,
        importance=settings.importance,
        allocation=settings.allocation,
        protect=settings.protect,
        policy=settings.policy,
        round_to=settings.round_to,
        floors=settings.floors,
    )


def check_budget(session: Session) -> None:
    """See that the budget can be met, and keep the engine for the stage.

    Seconds are measured while there is something to save; a stage under way goes by what was measured when it began.

    Raises:
        ValueError: it cannot; with the smallest that can.
    """
    settings = session.recipe.prune
    assert settings is not None
    pruner = make_pruner(session)
    pruner.minimum(settings.budget)
    if settings.budget.latency is not None and not session.folder.under_way("prune"):
        session.ranks.tell_plain(lambda: pruner.check_latency(settings.budget))  # one alone: ranks slow each other down
    session.captured.append(pruner)


def prune(session: Session) -> None:
    """All steps of pruning; goes on in the middle of any of them."""
    settings = session.recipe.prune
    assert settings is not None
    weights, distilled = session.folder.result("distil")
    pruner = make_pruner(session)
    resumed = session.folder.resume("prune")
    whole = resumed[1].get("whole") if resumed is not None else None  # shares are of what it took when pruning began
    if whole is None:
        whole = session.ranks.tell_plain(lambda: _whole_cost(pruner, settings.budget))
    limits = settings.budget.schedule(whole, settings.steps, settings.schedule)
    if resumed is None:
        session.folder.begin("prune")
        pruner.model.load_state_dict(weights)
        state = TrainState(pruner.model, session.machine)
        state.position.epoch = distilled["epoch"]  # go on with views that the student has not seen
        # a start that found the student distilled drew other numbers than one that distilled it: dropout draws on
        torch.manual_seed(zlib.crc32(f"{session.recipe.seed} prune".encode()))
        start = {"step": 0, **_facts(pruner)}
        first, pending = (0, start) if settings.sparse else (1, None)
        frontier = [] if settings.sparse else [{**start, "held_out": distilled["held_out"]}]
        stays = None
    else:
        tensors, numbers = resumed
        pruner.restore(_under(KEPT, tensors))
        first, pending, frontier = numbers["step"], numbers["pending"], numbers["frontier"]
        stays = {int(name): mask for name, mask in _under(STAYS, tensors).items()}
        state = TrainState(pruner.model, session.machine)
        state.load(tensors, numbers["position"], _training(settings, first))

    session.folder.show(frontier)
    loop = StageLoop(session, "prune", state, sum(work(session, settings)))
    goal = objective(session)
    context = gradients(session, pruner, goal)
    if stays is None and settings.sparse is not None and settings.sparse.penalty == "growing":
        stays = _plan(loop, pruner, settings.budget, limits[-1], limits[-1], "sparse learning", context())
        session.machine.place(pruner.model)
    for step in range(first, settings.steps + 1):
        if pending is None:
            before = frontier[-1]["held_out"] if frontier else None
            plan = _plan(loop, pruner, settings.budget, limits[step - 1], limits[-1], f"step {step}", context())
            pending = {
                "step": step,
                "limits": limits[step - 1],
                **_cut(loop, pruner, settings.budget, plan, step, before),
            }
        loop.numbers = {"step": step, "frontier": frontier, "pending": pending, "whole": whole}
        loop.tensors = {KEPT + name: mask for name, mask in pruner.state().items()}
        if step == 0:
            loop.tensors |= {f"{STAYS}{group}": mask for group, mask in (stays or {}).items()}
        loop.save()
        label = f"step {step}/{settings.steps}"
        rates_change = bool(stays) and step == 0  # which a recorded step would not see
        held_out = loop.fit(
            _training(settings, step),
            goal if step or settings.sparse is None else _penalised(goal, settings.sparse, pruner, stays or {}, loop),
            label,
            session.recipe.distil.view_pool,
            record=not rates_change,
        )
        frontier.append({**pending, "held_out": held_out})
        session.folder.show(frontier[-1:])
        _tell(session, frontier[-1], label)
        pending = None
    surgery = describe(pruner.model, session.build(session.recipe.student))
    with state.averaged() as final:
        session.folder.finish(
            "prune",
            {**final.state_dict(), **loop.tensors},
            {
                "images": state.position.images,
                "frontier": frontier,
                "held_out": frontier[-1]["held_out"],
                "surgery": surgery,
            },
        )


def pruned_student(session: Session) -> torch.nn.Module:
    """The student as the finished stage `prune` left it."""
    tensors, numbers = session.folder.result("prune")
    model = reshape(session.build(session.recipe.student), numbers["surgery"])
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(KEPT)})
    return model


def surgery_record(session: Session) -> dict[str, Any]:
    """How the student was cut, as `attar.artifact.save` wants it."""
    return session.folder.numbers("prune")["surgery"]


def _cut(
    loop: StageLoop, pruner: Pruner, budget: Budget, plan: Kept, step: int, before: float | None
) -> dict[str, Any]:
    """One cut, proved by the engine; moments and moving average follow. Returns what the frontier keeps of it.

    Args:
        plan: the units that stay.
        before: held-out accuracy so far, which stands where nothing goes.
    """
    cut = pruner.cut(plan)
    loop.state.cut(pruner.model, cut.kept, cut.scaled)
    removed = sum(old - new for old, new in cut.widths.values())
    if removed and budget.latency is not None and pruner.minimum() == pruner.cost():
        loop.session.watcher.note(
            f"step {step}: every group is at its floor, as the timings asked for it; on a machine that does other things as "
            "well they say little: see that the limit is meant so"
        )
    return {
        **_facts(pruner),
        "removed": removed,
        "proof": cut.proof,
        "held_out_before": loop.held_out() if removed else before,
    }


def _plan(
    loop: StageLoop,
    pruner: Pruner,
    budget: Budget,
    limits: dict[str, float],
    last: dict[str, float],
    what: str,
    context: Context | None,
) -> Kept:
    """The units that stay, as the first rank finds. The network is on the CPU afterwards.

    Captured there, it is scored, cut, timed and proved there, too; the state brings it back.

    Args:
        budget: says how latency is measured: of which batch, with how many threads, on the CPU.
        limits: absolute, to be met now.
        last: those of the last step, which has to be in reach.
        what: the plan is for, in messages.
    """
    pruner.model.to("cpu")
    context = context and context.on_cpu()
    wanted = Budget(**limits, batch=budget.batch, threads=budget.threads)

    def planned() -> tuple[dict[str, torch.Tensor], None]:
        try:
            return {str(group): kept for group, kept in pruner.plan(wanted, context, last).items()}, None
        except BudgetError as error:
            raise BudgetError(f"{what}, on the way to {budget}: {error}", error.smallest) from None

    plan, _ = loop.session.ranks.tell(planned)
    return {int(group): kept for group, kept in plan.items()}


def _facts(pruner: Pruner) -> dict[str, Any]:
    return {"cost": pruner.cost().as_dict(), "widths": pruner.widths()}


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): mask for name, mask in tensors.items() if name.startswith(prefix)}


def _whole_cost(pruner: Pruner, budget: Budget) -> dict[str, float]:
    """What the uncut student costs; its latency too where that is limited."""
    whole: dict[str, float] = {**pruner.cost().as_dict()}
    if budget.latency is not None:
        whole["latency"] = pruner.latency(budget.batch, budget.threads).seconds
    return whole


def gradients(session: Session, pruner: Pruner, goal: Objective) -> Callable[[], Context | None]:
    """Gradients of the objective on a few batches of training images, for the criteria that need them."""
    settings = session.recipe.prune
    assert settings is not None
    if not needs_gradients(settings.importance):
        return lambda: None
    ranks, samples = session.ranks, session.some_samples(GRADIENT_BATCHES * GRADIENT_BATCH)
    rows = max(1, min(-(-len(samples) // GRADIENT_BATCH), len(samples) // ranks.count))
    batches = [samples[row::rows] for row in range(rows)]  # every batch has of every part of the data

    def views() -> Iterator[tuple[Batch, float]]:
        for whole in batches:
            mine = ranks.share(whole)
            yield Batch(*session.student_views.batch(0, mine), 0, mine), ranks.part(len(whole))

    def loss(model: torch.nn.Module, batch: tuple[Batch, float]) -> torch.Tensor:
        return goal(model, batch[0])[0] * batch[1]

    return lambda: collect_gradients(pruner.model, views(), loss, session.recipe.seed, ranks.mean_)


def _penalised(goal: Objective, sparse: Sparse, pruner: Pruner, stays: Kept, loop: StageLoop) -> Objective:
    """The objective with the penalty of sparse learning; `stays`: the units that a growing one leaves alone."""
    if sparse.penalty == "lasso":
        return WithPenalty(goal, GroupLasso(pruner.structure, sparse.strength, sparse.alpha))
    rises = -(-steps_for(sparse.train, len(loop.session.split.train)) // sparse.every)
    growth = sparse.ceiling / rises
    at = loop.state.position
    return WithPenalty(
        goal, GrowingPenalty(pruner.structure, stays, lambda: at.step, growth, sparse.every, sparse.ceiling)
    )


def _training(settings: Prune, step: int) -> Training:
    if step == 0:
        assert settings.sparse is not None
        return settings.sparse.train
    return settings.final if settings.final is not None and step == settings.steps else settings.train


def work(session: Session, settings: Prune) -> list[float]:
    """Images that each step's fine-tuning will see, sparse learning first if there is any."""
    first = 0 if settings.sparse else 1
    return [session.work(_training(settings, step)) for step in range(first, settings.steps + 1)]


def _tell(session: Session, point: dict[str, Any], label: str) -> None:
    """One line about a finished step."""
    if point["step"] == 0:
        session.watcher.note(f"prune, {label}: sparse learning done")
        return
    if point["held_out"] is None:
        accuracies = ""
    else:
        accuracies = f", held-out accuracy {point['held_out_before']:.2%} -> {point['held_out']:.2%}"
    session.watcher.note(
        f"prune, {label}: {point['removed']} units cut, {point['cost']['params']:,} parameters{accuracies}, "
        f"proof {point['proof']:.1e}"
    )
