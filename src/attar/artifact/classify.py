"""Name what is in picture files, with the network of an artifact or one of its views."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.artifact.description import Description
from attar.artifact.errors import ArtifactError
from attar.artifact.evaluate import predict
from attar.artifact.folder import describe, load
from attar.artifact.runners import open_view, view_names
from attar.artifact.timing import runner_of
from attar.artifact.views import INT8, ONNX, PT2, Runner
from attar.data.pictures import BadPictureError, pillow, read_picture

SHORT = {"onnx": ONNX, "int8": INT8, "pt2": PT2}
"""What views may be called on the command line."""
BATCH = 64


@dataclass(frozen=True)
class Guess:
    """What a picture is taken for."""

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    """Names with their probabilities, the likeliest first."""
    error: str = ""
    """Why the picture could not be read; empty otherwise."""


def classify(
    path: str | Path, files: Sequence[str | Path], *, top: int = 3, view: str | None = None, allow: Collection[str] = ()
) -> Iterator[Guess]:
    """Read pictures, bring them to the network's size, and give their likeliest classes, in the order of the files.

    Args:
        path: the artifact's folder.
        files: picture files of any kind that Pillow reads.
        top: how many classes.
        view: `onnx`, `int8`, `pt2` or a view's file name; the network itself by default.
        allow: names of builders that the artifact may call, as for `attar.load`.

    Raises:
        ArtifactError: the artifact or the view cannot be opened, takes neither grey images nor RGB, or has not as many
            class names as logits.
        DataError: Pillow is missing. Files that cannot be read are told by `Guess.error`.
    """
    pillow()
    description = describe(path)
    if (channels := description.input.size[0]) not in (1, 3):
        raise ArtifactError(f"{path} takes images of {channels} channels; pictures are read as grey (1) or RGB (3)")
    run = open_runner(path, view, allow=allow)
    for start in range(0, len(files), BATCH):
        yield from _batch(run, description, [str(file) for file in files[start : start + BATCH]], top)


def _batch(run: Runner, description: Description, files: list[str], top: int) -> Iterator[Guess]:
    errors: dict[str, str] = {}
    images: dict[str, torch.Tensor] = {}
    for file in dict.fromkeys(files):
        try:
            images[file] = torch.from_numpy(read_picture(Path(file), description.input.size).copy())
        except BadPictureError as error:
            errors[file] = str(error)
    shares = dict(zip(images, predict(run, torch.stack(list(images.values()))))) if images else {}
    for file in files:
        if file in errors:
            yield Guess(file, error=errors[file])
            continue
        best = shares[file].topk(min(top, len(shares[file])))
        names = description.names(len(shares[file]))
        yield Guess(file, tuple((names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist())))


def view_name(path: str | Path, view: str) -> str:
    """The file name of a view that the artifact has; raises ArtifactError that lists those that it has."""
    name = SHORT.get(view, view)
    there = view_names(path)
    if name not in there:
        raise ArtifactError(f"{path} has no view {view!r}; it has {', '.join(there) or 'none'}: attar export adds some")
    return name


def open_runner(
    path: str | Path, view: str | None = None, *, allow: Collection[str] = (), threads: int | None = None
) -> Runner:
    """The network (no view named) or a view, by its short or file name, as a function from raw pixels to logits."""
    if view is None:
        return runner_of(load(path, allow=allow))
    return open_view(path, view_name(path, view), threads=threads)
