"""The teacher of a finished run, measured as its student is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from attar import artifact
from attar.artifact import Bench, Description
from attar.pipeline.folder import RunError, RunFolder, read_json
from attar.pipeline.session import network_spec
from attar.recipe import Teacher
from attar.recipe.types import Network
from attar.train import read_checkpoint


def bench_teacher(
    path: str | Path,
    *,
    batches: Sequence[int],
    threads: int,
    seconds: float,
    allow: Collection[str] = (),
    tell: Callable[[str], None] = lambda name: None,
) -> list[Bench]:
    """Measure the teacher of the run that an artifact lies in, saved for the moment as an artifact of its own.

    Returns:
        One row, or one for each member of an ensemble, whose times add up.

    Raises:
        RunError: the artifact does not lie in a run that taught a network.
        ArtifactError: the teacher is a network of code that was not allowed.
    """
    there = Path(path).resolve()
    run = there.parent
    weights = run / "teach.safetensors"
    if not (run / "run.json").is_file() or not weights.is_file():
        raise RunError(f"{path} does not lie in a run with a teacher's network (no {weights.name} beside it)")
    if there != RunFolder(run).artifact:
        raise RunError(f"{path} lies in a run, but is not its artifact, whose teacher would be measured")
    teacher = Teacher.model_validate(read_json(run / "run.json")["recipe"]["teacher"])
    tensors = read_checkpoint(weights)[0]
    parts: list[tuple[str, Network, Mapping[str, Tensor]]] = [("teacher", teacher, tensors)]
    if teacher.members:
        parts = [
            (f"teacher, member {number + 1}", member, _of_member(tensors, number))
            for number, member in enumerate(teacher.members)
        ]
    description, golden = artifact.describe(path), artifact.golden_images(path)
    found = []
    for name, network, state in parts:
        tell(name)
        with tempfile.TemporaryDirectory() as place:
            folder = _save(Path(place) / "teacher", network, state, description, golden, allow)
            found.append(
                artifact.bench(folder, name=name, batches=batches, threads=threads, seconds=seconds, allow=allow)
            )
    return found


def _of_member(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    start = f"members.{number}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _save(
    folder: Path, network: Network, state: Mapping[str, Tensor], of: Description, golden: Tensor, allow: Collection[str]
) -> Path:
    """The network as an artifact that takes what the student's takes."""
    if not of.class_names:
        raise RunError("the artifact names no classes, so its teacher cannot be built again")
    spec = artifact.check_permitted(network_spec(network, of.input.size[0], len(of.class_names)), allow)
    model = artifact.build_within(spec, sum(tensor.nbytes for tensor in state.values()), None, allow)
    model.load_state_dict(state)
    form = of.input
    return artifact.save(folder, model, spec, input_size=form.size, mean=form.mean, std=form.std, golden=golden)
