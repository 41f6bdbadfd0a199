"""The teacher of a finished run, measured as its student is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from attar import artifact
from attar.artifact import Bench
from attar.pipeline.folder import RunError
from attar.pipeline.session import network_spec
from attar.recipe import Teacher
from attar.train import read_checkpoint


def bench_teacher(
    path: str | Path, *, batches: Sequence[int], threads: int, seconds: float, allow: Collection[str] = ()
) -> Bench:
    """Measure the teacher of the run that an artifact lies in, saved for the moment as an artifact of its own.

    Raises:
        RunError: the artifact does not lie in a run that taught a network.
        ArtifactError: the teacher is a network of code that was not allowed.
    """
    run = Path(path).resolve().parent
    weights = run / "teach.safetensors"
    if not (run / "run.json").is_file() or not weights.is_file():
        raise RunError(f"{path} does not lie in a run with a teacher (no {weights}); leave --teacher out")
    settings = Teacher.model_validate(json.loads((run / "run.json").read_text())["recipe"]["teacher"])
    form, classes = artifact.describe(path).input, _classes(path)
    spec = artifact.check_permitted(network_spec(settings, form.size[0], classes), allow)
    model = artifact.build_within(spec, weights.stat().st_size, None, allow)
    model.load_state_dict(read_checkpoint(weights)[0])
    golden = artifact.golden_images(path)
    with tempfile.TemporaryDirectory() as place:
        folder = artifact.save(
            Path(place) / "teacher", model, spec, input_size=form.size, mean=form.mean, std=form.std, golden=golden
        )
        return artifact.bench(folder, name="teacher", batches=batches, threads=threads, seconds=seconds, allow=allow)


def _classes(path: str | Path) -> int:
    """How many classes the artifact's network tells apart."""
    names = artifact.describe(path).class_names
    if not names:
        raise RunError(f"{path} names no classes, so the teacher cannot be built again; leave --teacher out")
    return len(names)
