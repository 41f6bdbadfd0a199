"""An artifact's accuracy on a data set's test images, without recipe or run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from attar import artifact
from attar.artifact.manifest import parse_json
from attar.data import ImageData, Progress, load_data, runs_code
from attar.recipe import Data


def evaluate_artifact(
    path: str | Path,
    data: str | None = None,
    folder: str | Path | None = None,
    allow: Collection[str] = (),
    view: str | None = None,
) -> tuple[artifact.Evaluation, str]:
    """Evaluate an artifact on the test images of `data`, by default the data set that its report names.

    `allow`: builders that the artifact may call, as for `attar.load`. `view`: `onnx`, `int8` or `pt2`; the network by default.

    Returns:
        The evaluation and the data set's name.

    Raises:
        ArtifactError: the artifact or the view cannot be opened.
        DataError: the data cannot be had.
        ValueError: as `data_of`, or the data's classes are not the artifact's.
    """
    model = artifact.open_runner(path, view, allow=allow)
    images = data_of(path, data, folder)
    _check_classes(artifact.describe(path).class_names, images)
    return artifact.evaluate(model, images.test_images, images.test_labels), data or images.name


def data_of(
    path: str | Path, data: str | None = None, folder: str | Path | None = None, progress: Progress | None = None
) -> ImageData:
    """The named data, by default what the artifact's report says that it was made for; pictures in the artifact's size.

    Raises:
        DataError: the data cannot be had.
        ValueError: no data was named and the artifact has no report that names one, or the images are of another shape.
    """
    takes, made_for = artifact.describe(path).input.size, _made_for(path)
    if data is None:
        if made_for is None:
            raise ValueError(f"{path} has no report.json that says what data it was made for; name it with --data")
        check_harmless(path, made_for.source)
        data, folder = made_for.source, folder or made_for.folder
    same = made_for is not None and (data, str(folder or "")) == (made_for.source, made_for.folder or "")
    size = made_for.size if made_for is not None and same else _side(data, takes)
    images = load_data(data, folder, progress, size)
    if images.image_shape != takes:
        raise ValueError(
            f"the images of {data} are {list(images.image_shape)}, the artifact takes {list(takes)} (channels, height, "
            "width); name the data that it was made for: --data, --folder"
        )
    return images


def _made_for(path: str | Path) -> Data | None:
    """What the artifact's report says that it was made for; None where it says nothing."""
    try:
        table = parse_json(artifact.read_listed(path, "report.json"), "report.json")["recipe"]["data"]
        return Data(source=table["source"], folder=table["folder"], size=table.get("size"))
    except (artifact.ArtifactError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_harmless(path: str | Path, source: str) -> None:
    """See that data which a file names may be opened without the user's own word; raises ValueError where they may not."""
    if source.startswith("hf:"):  # the artifact may be a stranger's, and the name one that is fetched
        raise ValueError(f"{path} was made for {source}; to open that data set, say --data {source}")
    if runs_code(source):
        raise ValueError(f"{path} was made for data of the function {source}; to run that code, say --data {source}")


def _side(data: str, takes: tuple[int, int, int]) -> int | None:
    """The size that pictures are wanted in; None for data that have theirs, or a network for no square."""
    _, height, width = takes
    return height if data.startswith(("folder:", "hf:")) and height == width else None


def _check_classes(names: tuple[str, ...], data: ImageData) -> None:
    """See that the labels mean the same; classes that are but numbered, on either side, can only be counted."""
    numbers = tuple(map(str, range(len(names))))
    if not names or names == data.class_names or (len(names) == data.classes and numbers in (names, data.class_names)):
        return
    if len(names) != data.classes:
        raise ValueError(f"{data.name} has {data.classes} classes and the artifact tells {len(names)} apart")
    at = next(n for n, pair in enumerate(zip(names, data.class_names)) if pair[0] != pair[1])
    raise ValueError(
        f"{data.name} has other classes than the artifact, or in another order: class {at} is {data.class_names[at]!r} there "
        f"and {names[at]!r} in the artifact; name the folders of classes alike"
    )
