"""int8 that holds its accuracy: where quantising after training loses too much, the student is fine-tuned for int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from attar import artifact
from attar.artifact import INT8
from attar.pipeline.session import Session
from attar.pipeline.stage_loop import StageLoop
from attar.pipeline.teaching import objective
from attar.recipe import Training
from attar.train import TrainState
from attar.train.fake_quant import fake_quantised

STAGE = "int8"
Facts = dict[str, Any]


def mend_int8(
    session: Session, views: list[Facts], network: float | None, student: Callable[[], torch.nn.Module]
) -> None:
    """Hold the int8 view against the network on held-out images; fine-tune for int8 where it loses too much.

    The better of both files stays in the artifact, and the view's row tells what was found of each under `int8`.

    Args:
        session: the run, its artifact saved.
        views: rows of `add_views`; the int8 view's is changed in place.
        network: held-out accuracy of the float network; None where nothing is held out, and then nothing is chosen.
        student: gives the float network.
    """
    row = next((row for row in views if row["name"] == INT8 and "error" not in row), None)
    settings = session.recipe.export
    if row is None or network is None:
        return
    after_training = _accuracy(session)
    found: Facts = {"network": network, "post_training": after_training, "fine_tuned": None}
    row["int8"] = found
    lost = 100 * (network - after_training)
    if lost <= settings.int8_loss or settings.int8_finetune == 0:
        return
    session.watcher.note(f"{INT8} loses {lost:.2f} points on held-out images: fine-tuning for int8")
    tuned = _fine_tuned(session, student)
    if tuned is None:
        return
    before = artifact.read_listed(session.folder.artifact, INT8)
    view = artifact.quantise_int8(session.folder.artifact, calibration(session), network=tuned)
    found |= {"fine_tuned": _accuracy(session), "agrees": view.agrees}
    better = found["fine_tuned"] > after_training and (view.agrees or not row["agrees"])
    found["shipped"] = "fine_tuned" if better else "post_training"
    session.watcher.note(
        f"{INT8}: held-out accuracy {after_training:.2%} after training, {found['fine_tuned']:.2%} fine-tuned for int8, "
        f"{network:.2%} the network; the {'second' if better else 'first'} ships"
    )
    if better:
        row |= {key: getattr(view, key) for key in ("bytes", "difference", "agreement", "agrees")}
    else:
        artifact.write_files(session.folder.artifact, {INT8: before})


def calibration(session: Session) -> torch.Tensor:
    """uint8 (N, C, H, W): training images that int8's ranges are taken from."""
    return session.data.images[session.some_samples(session.recipe.export.int8_images)]


def _accuracy(session: Session) -> float:
    """Held-out accuracy of the artifact's int8 view."""
    samples = session.split.held_out
    run = artifact.open_view(session.folder.artifact, INT8)
    return artifact.evaluate(run, session.data.images[samples], session.data.labels[samples]).accuracy


def _fine_tuned(session: Session, student: Callable[[], torch.nn.Module]) -> torch.nn.Module | None:
    """The student after training that rounds as int8 does; a stage of its own, which goes on where it was stopped."""
    folder, training = session.folder, _training(session)
    model = student()
    if folder.finished(STAGE):
        model.load_state_dict(folder.result(STAGE)[0])
        return model
    state = TrainState(model, session.machine)
    resumed = folder.resume(STAGE)
    if resumed is None:
        folder.begin(STAGE)
    else:
        state.load(resumed[0], resumed[1]["position"], training)
    loop = StageLoop(session, STAGE, state, session.work(training))
    with fake_quantised(state.model) as layers:
        if layers == 0:
            session.watcher.note("no layer of the network can be fine-tuned for int8")
            return None
        # torch's fake quantisation looks at its zero points on the host, which a CUDA graph cannot hold
        pool = session.recipe.distil.view_pool
        held_out = loop.fit(training, objective(session), view_pool=pool, record=False)
    with state.averaged() as final:
        folder.finish(STAGE, final.state_dict(), {"images": state.position.images, "held_out": held_out})
    model.load_state_dict(folder.result(STAGE)[0])
    return model.cpu().eval()


def _training(session: Session) -> Training:
    """The student's last training, for a few epochs at a tenth of its rate."""
    recipe = session.recipe
    last = recipe.distil.train if recipe.prune is None else recipe.prune.final or recipe.prune.train
    assert last is not None
    rate = last.learning_rate / 10
    changes = {"epochs": recipe.export.int8_finetune, "warmup": 0.0, "learning_rate": rate}
    return last.model_copy(update={**changes, "final_learning_rate": min(last.final_learning_rate, rate)})
