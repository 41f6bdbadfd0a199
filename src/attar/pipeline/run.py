"""A run: checks before anything is computed, then the stages in order, each of them resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attar.data import DataError, Dataset, ImageData, Shards, checked, from_dataset, load_data, pixel_statistics, split
from attar.distil import find_loss
from attar.pipeline.environment import command, environment, forget_peak
from attar.pipeline.exporting import check_libraries, wanted_views
from attar.pipeline.finish import export, report
from attar.pipeline.folder import CODE, RunError, RunFolder
from attar.pipeline.outputs import teacher_facts
from attar.pipeline.pruning import check_budget, prune
from attar.pipeline.ranks import RankFolder, check_agreed, check_batches
from attar.pipeline.session import Session, parts_of
from attar.pipeline.teaching import distil, teach
from attar.pipeline.tensorboard import Board
from attar.pipeline.watch import Silent, Watcher
from attar.pipeline.weights import load_weights
from attar.recipe import Recipe, RecipeError, check_recipe, load_recipe, recipe_toml
from attar.recipe.types import Network
from attar.train import ALONE, Machine, Ranks

Given = ImageData | tuple[Dataset, Dataset] | None
"""Data that a caller brings: whole, or the training and the test data set."""


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    watcher: Watcher | None = None,
    until: str = "report",
    *,
    data: Given = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Do everything that a recipe says, or what is left of it, in the run folder `out`.

    Args:
        recipe: a checked recipe, one as nested dictionaries, or the path of one (`load_recipe` takes overrides, too).
        out: the run folder; made if it is not there, continued if it holds this very run.
        watcher: told about progress.
        until: the last stage to do. After `export` the artifact is there and the test images are not read yet: what is
            chosen among runs is chosen there, on held-out images. A later call goes on.
        data: training and test data sets of your own (see `attar.data.from_dataset`), or an ImageData, in place of what
            `data.source` names, which is then but their name.
        tensorboard: keep the folder `tensorboard` in the run folder too, for `tensorboard --logdir`.

    Returns:
        The report's facts (what `report.json` holds); nothing before that stage, nor on any rank but the first where
        torchrun started several.

    Raises:
        RecipeError: the recipe cannot be run; nothing was computed.
        DataError: the data cannot be had.
        RunError: the run folder cannot be used.
        Interrupted: the run was stopped; the same call goes on.
        Diverged: training broke down; the last checkpoint is from before.
        RankError: another rank was lost, or is not like this one; the same call goes on.
    """
    if not isinstance(recipe, Recipe):
        recipe = check_recipe(dict(recipe)) if isinstance(recipe, Mapping) else load_recipe(recipe)
    ranks = Ranks.here()
    watcher = watcher if watcher is not None and ranks.first else Silent()
    training = _training_stages(recipe)
    if until not in (known := [*dict(training), "export", "report"]):
        raise ValueError(f"until = {until!r} is no stage of this recipe; it has {', '.join(known)}")
    with ExitStack() as held:
        own = held.enter_context(RunFolder(out)) if ranks.first else RunFolder(out)
        board = Board(own.path / "tensorboard") if tensorboard and ranks.first else None
        with ranks.connected(cuda=torch.cuda.is_available() and recipe.compute.device != "cpu"):
            session = prepare(recipe, own if ranks.count == 1 else RankFolder(own, ranks), watcher, data, ranks)
            if board is not None:
                own.show_on(board)
            session.folder.write_text("recipe.toml", recipe_toml(recipe, whole=True))
            for name, stage in training:
                _do(session, name, stage)
                if name == until:
                    return {}
        if not ranks.first:  # what is left is for one
            return {}
        if ranks.count > 1:
            session = replace(session, folder=own, ranks=ALONE)
        _do(session, "export", export)
        own.check_artifact()
        if until == "export":
            return {}
        watcher.stage("report", "")
        with same_networks(session):
            return report(session)


Stage = Callable[[Session], None]


def _do(session: Session, name: str, stage: Stage) -> None:
    if session.folder.finished(name):
        session.watcher.stage(name, "done before")
        return
    session.watcher.stage(name, "")
    forget_peak()
    with same_networks(session):
        stage(session)


@contextmanager
def same_networks(session: Session) -> Iterator[None]:
    """Say what it means where weights that the run made do not fit the network that its recipe builds by now."""
    try:
        yield
    except RuntimeError as error:
        told = " ".join(str(error).split())
        if not told.startswith("Error(s) in loading state_dict"):
            raise
        raise RunError(
            f"{session.folder.path} holds weights of another network than the recipe builds now: its code, or the artifact that "
            f"student.shape names, was changed since. Put the old one back, or choose another --out ({told:.300})"
        ) from error


def _training_stages(recipe: Recipe) -> list[tuple[str, Stage]]:
    stages: list[tuple[str, Stage]] = [("distil", distil)]
    if recipe.teacher_network is not None:
        stages.insert(0, ("teach", teach))
    if recipe.prune is not None:
        stages.append(("prune", prune))
    return stages


def check(recipe: Recipe, out: str | Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """See that a recipe can be run, or go on, in the run folder `out`, which is neither made nor changed.

    Returns:
        The facts that the run would record: data, split and machine.

    Raises:
        RecipeError, DataError, RunError: as `run`, before it computes anything.
    """
    return looked_at(recipe, out, watcher or Silent())[1]


def looked_at(recipe: Recipe, out: str | Path, watcher: Watcher, data: Given = None) -> tuple[Session, dict[str, Any]]:
    """The session and the facts of a run that is not started: its folder holds this very run, or none; raises as `check`."""
    session, facts = opened(recipe, RunFolder(out), watcher, data)
    first = session.folder.recorded(recipe, facts)
    if first is not None:
        _check_outputs(session.folder, first, facts)
    return session, facts


def prepare(recipe: Recipe, folder: RunFolder, watcher: Watcher, data: Given = None, ranks: Ranks = ALONE) -> Session:
    """Everything that can go wrong before hours are spent goes wrong here; raises what `run` raises for it."""
    session, facts = opened(recipe, folder, watcher, data, ranks)
    if ranks.count > 1:
        check_agreed(ranks, recipe, facts)
        how = f"{session.machine.threads} threads each" if session.machine.device == "cpu" else "a GPU each"
        watcher.note(f"{ranks.count} ranks, {how}: every batch is shared among them")
    first = folder.adopt(recipe, facts)
    _check_outputs(folder, first, facts)
    if {"ranks": 1, **first["machine"]} != facts["machine"]:
        watcher.note(f"started on {first['machine']}, goes on on {facts['machine']}: the last bits may differ")
    known = [start for start in first.get("starts", []) if not isinstance(start, str)]
    before, now = (known or [first["environment"]])[-1], facts["environment"]
    for what in CODE:
        if before[what] != now[what] and not session.folder.done:
            watcher.note(f"goes on with other code ({what} {before[what]} before, {now[what]} now): this is recorded")
    return session


def _check_outputs(folder: RunFolder, first: dict[str, Any], facts: dict[str, Any]) -> None:
    """See that the file in the teacher's place is still the one of the first start, on this rank too."""
    if first.get("teacher_outputs") != facts.get("teacher_outputs"):
        raise RunError(f"{folder.path} was started with other teacher.outputs, of the same name; choose another --out")


def opened(
    recipe: Recipe, folder: RunFolder, watcher: Watcher, given: Given = None, ranks: Ranks = ALONE
) -> tuple[Session, dict[str, Any]]:
    """Data, split and networks, checked, and the facts that a run records; the folder is only looked at."""
    try:
        machine = Machine.choose(recipe.compute, ranks)
        check_libraries(wanted_views(recipe.export))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    if machine.emulates:
        watcher.note(
            "compute.precision = 'bf16' is not native here and is emulated, many times slower than 'fp32'; 'auto' is not"
        )
    data = ranks.in_turn(lambda: _data(recipe, watcher, given))
    try:
        parts = split(data.labels, recipe.data.held_out, recipe.data.split_seed)
    except ValueError as error:
        raise RecipeError(f"data.held_out = {recipe.data.held_out}: {error}") from None
    check_batches(recipe, len(parts.train), ranks)
    mean, std = _normalisation(recipe, data, parts.train)
    facts = {
        "command": command(),
        "environment": environment(),
        "machine": machine.record(),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "source": data.source},
        "split": {"train": len(parts.train), "held_out": len(parts.held_out), "digest": parts.digest},
    }
    session = Session(recipe, folder, data, parts, mean, std, machine, watcher, ranks)
    _check_networks(session)
    if outputs := teacher_facts(session):
        facts["teacher_outputs"] = outputs
    return session, facts


def _data(recipe: Recipe, watcher: Watcher, given: Given) -> ImageData:
    """What the recipe names, or what was given in its place; raises DataError."""
    if isinstance(given, ImageData):
        return checked(given)

    def tell(text: str, done: float | None) -> None:
        watcher.note(text)

    if given is not None:
        if not (isinstance(given, tuple | list) and len(given) == 2):
            raise DataError(
                f"data is of type {type(given).__name__}; give an ImageData, or a pair: the training and the test data set"
            )
        return from_dataset(*given, name=recipe.data.source, progress=tell)
    try:
        return load_data(recipe.data.source, recipe.data.folder, tell, recipe.data.size)
    except DataError as error:
        raise DataError(f"data.source = {recipe.data.source!r}: {error}") from None


def _normalisation(recipe: Recipe, data: ImageData, train: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel: the recipe's, or those of the training images."""
    if recipe.data.mean is None or recipe.data.std is None:
        return pixel_statistics(data.images, train)
    if len(recipe.data.mean) != data.image_shape[0]:
        raise RecipeError(
            f"data.mean = {list(recipe.data.mean)}: the images have {data.image_shape[0]} channels; give a number for each"
        )
    return recipe.data.mean, recipe.data.std


def _check_networks(session: Session) -> None:
    """Find the loss, build the networks, and see that the budget can be met.

    Raises:
        RecipeError: naming the place in the recipe.
    """
    recipe = session.recipe
    if recipe.distil.mixup and isinstance(session.views.images, Shards):
        raise RecipeError(
            f"distil.mixup = {recipe.distil.mixup:g} takes images that fit into memory, and these are read from disk by shards "
            f"(data.in_memory = {recipe.data.in_memory}); raise data.in_memory, or leave mixup out"
        )
    if recipe.teacher is not None and recipe.distil.alpha > 0:
        try:
            find_loss(recipe.distil.loss, session.data.classes, recipe.distil.mixup > 0)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"distil.loss = {recipe.distil.loss!r}: {error}") from None
    networks: list[tuple[str, Network]] = []
    if (teacher := recipe.teacher_network) is not None:
        networks = [(part.place, part.network) for part in parts_of(teacher)]
        networks += [("teacher", teacher)] if teacher.members else []  # all of them together
    networks.append(("student", recipe.student))
    for place, network in networks:
        try:
            model = session.build(network)
            outputs = model.eval()(session.example)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            shape = f"images are {list(session.data.image_shape)} (channels, height, width)"
            raise RecipeError(f"{place}.model = {network.model!r}: {error} ({shape})") from None
        wanted = (len(session.example), session.data.classes)
        if tuple(getattr(outputs, "shape", ())) != wanted:
            raise RecipeError(
                f"{place}.model = {network.model!r}: for images of {list(session.data.image_shape)} it should give "
                f"logits {list(wanted)}, it gives {list(getattr(outputs, 'shape', [])) or type(outputs).__name__}; "
                f"{place}.arguments may say how many classes"
            )
        if network.weights is not None and not session.folder.finished("distil" if place == "student" else "teach"):
            known = session.data.image_shape[0], session.data.classes
            load_weights(model, Path(network.weights), f"{place}.weights", known)
    if recipe.prune is not None and not session.folder.finished("prune"):
        try:
            check_budget(session)
        except ValueError as error:
            raise RecipeError(f"prune: {error}") from error
