"""Where the student gets the teacher's outputs: a pool on disk, the teacher itself, or a file in its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from attar import artifact
from attar.distil import (
    OutputsError,
    Pool,
    ShippedOutputs,
    TeacherOutputs,
    ViewOutputs,
    cache_limit,
    cache_mode,
    coding_for,
    pools_folder,
    read_outputs,
)
from attar.distil.cache import Evaluate
from attar.distil.ensemble import Ensemble
from attar.distil.pools import digest_of, digest_of_all
from attar.distil.store import BLOCK, file_bytes, megabytes
from attar.models import LIBRARIES, BuilderSpec
from attar.pipeline.environment import package_version
from attar.pipeline.session import Session
from attar.recipe import RecipeError, Teacher
from attar.train import predict

FORMAT = 1
"""Changed whenever outputs or their files would no longer mean the same."""


def teacher_outputs(session: Session) -> TeacherOutputs:
    """The teacher's logits for any batch of training views.

    Raises:
        RecipeError: the file that stands in for the teacher cannot be used.
        TeacherError: the store has outputs that are not this teacher's.
        ValueError: an environment variable of the view cache says something else than it may.
    """
    if session.recipe.teacher_network is None:
        return shipped_outputs(session)
    outputs = view_outputs(session)
    if outputs.pool is not None and outputs.pool.write and not outputs.pool.path.exists():
        epochs = session.recipe.distil.view_pool
        size = file_bytes(len(session.split.train), outputs.coding.row_bytes)
        most = f"at most {megabytes(epochs * size)}" if epochs else f"{megabytes(size)} an epoch"
        session.watcher.note(f"teacher's outputs are kept in {outputs.pool.path}, {most}")
    return outputs


def view_outputs(session: Session, write: bool | None = None) -> ViewOutputs:
    """The outputs of the teacher that stage `teach` left, through the store.

    Args:
        session: the run.
        write: whether new files may be made; by default where views come again (a pool), or where ATTAR_VIEW_CACHE
            asks for all. Fresh views are not seen twice in a run; storing them pays only if another run follows.

    Raises:
        TeacherError: the store has outputs that are not this teacher's.
    """
    mode = cache_mode()
    if write is None:
        write = mode == "all" or session.recipe.distil.view_pool > 0
    pool = None
    if mode != "off":
        pool = Pool(_facts(session), pools_folder(), cache_limit(), write, _notes(session))
    coding = coding_for(session.data.classes)
    temperature = session.recipe.distil.temperature
    tell, together = session.watcher.note, session.ranks if session.ranks.count > 1 else None
    outputs = ViewOutputs(
        session.student_views, session.split.train, _teacher(session), coding, temperature, pool, tell, together
    )
    if pool is not None and pool.key not in session.compared:
        outputs.check_stored()
        session.compared.add(pool.key)
    return outputs


def shipped_outputs(session: Session) -> ShippedOutputs:
    """The file that the recipe names, checked against the recipe.

    Raises:
        RecipeError: it cannot be read, or holds outputs for other data, views or classes; with both values.
    """
    if session.shipped:
        return session.shipped[0]
    recipe = session.recipe
    assert recipe.teacher is not None and recipe.teacher.outputs is not None
    place = f"teacher.outputs = {recipe.teacher.outputs!r}"
    try:
        found = read_outputs(Path(recipe.teacher.outputs), recipe.distil.temperature)
    except OutputsError as error:
        raise RecipeError(f"{place}: {error}") from None
    there, here = found.facts, _view_facts(session)
    faults = [
        f"{name} is {json.dumps(_at(there, name))} in the file, {json.dumps(value)} in the recipe"
        for name, value in {
            "data.fingerprint": here["data"]["fingerprint"],
            **{f"augment.{name}": value for name, value in here["augment"].items()},
            "view_seed": here["view_seed"],
            "classes": here["classes"],
            "view_pool": recipe.distil.view_pool,
            "mixup": here.get("mixup"),
        }.items()
        if _at(there, name) != value
    ]
    augment, mean = session.views.augment, there.get("mean")
    if augment.erase > 0 and augment.erase_fill == "mean" and mean is not None and _apart(mean, session.mean):
        faults.append(f"erased parts are filled with the mean: {mean} in the file, {list(session.mean)} in the recipe")
    if found.test is not None and len(found.test) != len(session.data.test_images):
        faults += [f"it tells of {len(found.test)} test images, there are {len(session.data.test_images)}"]
    if "mixup" in here and _at(there, "samples") != here["samples"]:
        faults.append("its views are mixed with images of other training samples than this split's")
    unknown = ~torch.isin(session.split.train, found.samples)
    if not faults and unknown.any():
        faults = [f"it lacks {int(unknown.sum())} of the {len(unknown)} training images of this split"]
    if faults:
        raise RecipeError(
            f"{place} (made for {found.facts.get('data_name')}) does not fit the recipe: {'; '.join(faults)}"
        )
    session.shipped.append(found)
    return found


def teacher_facts(session: Session) -> dict[str, Any] | None:
    """What a run records about the file that stands in for its teacher; None where there is a network."""
    teacher = session.recipe.teacher
    if teacher is None or teacher.outputs is None:
        return None
    return {"file": Path(teacher.outputs).name, **shipped_outputs(session).facts}


def teacher_on_test(session: Session) -> torch.Tensor | None:
    """The teacher's logits for the plain test images, float (n, classes): its network's, or those that its file brings.

    None where there is no teacher, or a file without them.
    """
    teacher = session.recipe.teacher
    if teacher is None:
        return None
    if teacher.outputs is not None:
        return shipped_outputs(session).test
    everyone = torch.arange(len(session.data.test_images))
    return predict(trained_teacher(session), session.test_views, everyone, session.machine, exact=True)


def fresh_teacher(session: Session) -> torch.nn.Module | None:
    """The teacher with fresh weights, to be counted and timed: the recipe's network, or the one that its file tells of.

    None where there is no teacher, or where the file's may not or cannot be built here.
    """
    teacher = session.recipe.teacher
    if teacher is None:
        return None
    if teacher.outputs is None:
        return session.build(teacher).eval()
    facts = shipped_outputs(session).facts["teacher"]
    specs = [BuilderSpec(member["name"], member["arguments"]) for member in facts.get("members", [facts])]
    try:
        members = [artifact.build_within(spec, 0, None, session.own_builder) for spec in specs]
    except artifact.ArtifactError as error:
        session.watcher.note(f"the teacher is not measured: {error}")
        return None
    return (Ensemble(members) if "members" in facts else members[0]).eval()


def trained_teacher(session: Session) -> torch.nn.Module:
    """The teacher with the weights of the finished stage `teach`; torch's generators stay where they were."""
    teacher = session.recipe.teacher_network
    assert teacher is not None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model = session.build(teacher)
    model.load_state_dict(session.folder.result("teach")[0])
    return session.machine.place(model).eval().requires_grad_(False)


def _teacher(session: Session) -> Evaluate:
    """The teacher, built when it is first needed.

    Ranks, which learn of its weights from the first one, all build it at once.
    """
    built = [trained_teacher(session)] if session.ranks.count > 1 else []

    def evaluate(images: torch.Tensor) -> torch.Tensor:
        if not built:
            built.append(trained_teacher(session))
        with torch.inference_mode(), session.machine.autocast():
            return built[0](images.to(memory_format=session.machine.memory_format)).float()

    return evaluate


def _facts(session: Session) -> dict[str, Any]:
    """Everything that the last bit of a stored output depends on, but for code that the network's own file imports."""
    teacher = session.recipe.teacher_network
    assert teacher is not None
    coding, machine = coding_for(session.data.classes), session.machine
    weights = session.folder.result("teach")[0]
    return {
        "format": FORMAT,
        "teacher": {**_teacher_builder(session, teacher), "weights": digest_of_all(weights)},
        **_view_facts(session),
        "mean": list(session.mean),
        "std": list(session.std),
        "coding": coding.name,
        "row_bytes": coding.row_bytes,
        "block": BLOCK,
        "precision": machine.precision,
        "channels_last": machine.channels_last,
        "computed_on": _processor(session),
    }


def _view_facts(session: Session) -> dict[str, Any]:
    """What the views are views of, as JSON gives it back."""
    samples = session.split.train
    facts = {
        "data": {"fingerprint": session.data.fingerprint},
        "samples": {"count": len(samples), "digest": digest_of(samples)},
        "augment": session.views.augment.model_dump(),
        "view_seed": session.recipe.view_seed,
        "classes": session.data.classes,
        **({"mixup": session.recipe.distil.mixup} if session.recipe.distil.mixup else {}),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def _notes(session: Session) -> dict[str, Any]:
    """What those who find a pool or a file want to know of it."""
    held_out = session.folder.numbers("teach")["held_out"]
    return {
        "recipe": session.recipe.name,
        "data_name": session.data.name,
        "teacher_held_out": {"accuracy": held_out, "images": len(session.split.held_out)},
        "split": {"held_out": session.recipe.data.held_out, "seed": session.recipe.data.split_seed},
        "attar": package_version("attar"),
    }


def _teacher_builder(session: Session, teacher: Teacher) -> dict[str, Any]:
    """How the teacher is built, or each of its members."""
    if teacher.members:
        return {"members": [_builder_facts(session.spec(member)) for member in teacher.members]}
    return _builder_facts(session.spec(teacher))


def _builder_facts(spec: BuilderSpec) -> dict[str, Any]:
    """Name, arguments, and the version of the code: of a library, or the digest of the user's own file."""
    if spec.library in LIBRARIES:
        version = package_version(LIBRARIES[spec.library])
    else:
        file = getattr(import_module(spec.library), "__file__", None)  # a notebook has none
        version = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    return {**spec.to_dict(), "version": version}


def _processor(session: Session) -> dict[str, Any]:
    device = torch.device(session.machine.device)
    facts: dict[str, Any] = {"device": device.type, "torch": torch.__version__}
    if device.type == "cuda":
        return {**facts, "processor": torch.cuda.get_device_name(device)}
    return {**facts, "processor": torch.backends.cpu.get_cpu_capability(), "threads": session.machine.threads}


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two means (of pixels in 0..1) are further apart than those of two splits: by more than half a grey level."""
    return len(a) != len(b) or any(abs(x - y) > 0.5 / 255 for x, y in zip(a, b))


def _at(facts: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        facts = facts.get(part, {}) if isinstance(facts, dict) else {}
    return facts if facts != {} else None
