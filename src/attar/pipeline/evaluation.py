"""An artifact's accuracy on a data set's test images, without recipe or run."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from attar import artifact
from attar.data import ImageData, Progress, load_data, runs_code


def evaluate_artifact(
    path: str | Path, data: str | None = None, folder: str | Path | None = None, allow: Collection[str] = ()
) -> tuple[artifact.Evaluation, str]:
    """Evaluate an artifact on the test images of `data`, by default the data set that its report names.

    `allow`: builders that the artifact may call, as for `attar.load`.

    Returns:
        The evaluation and the data set's name.

    Raises:
        ArtifactError: the artifact cannot be opened, or the images are not of its kind.
        DataError: the data cannot be had.
        ValueError: no data was named and the artifact has no report that names one.
    """
    model = artifact.load(path, allow=allow)
    images = data_of(path, data, folder)
    return artifact.evaluate(model, images.test_images, images.test_labels), data or images.name


def data_of(
    path: str | Path, data: str | None = None, folder: str | Path | None = None, progress: Progress | None = None
) -> ImageData:
    """The named data, by default what the artifact's report says that it was made for.

    Raises:
        DataError: the data cannot be had.
        ValueError: no data was named and the artifact has no report that names one.
    """
    if data is not None:
        return load_data(data, folder, progress)
    try:
        made_for = json.loads(artifact.read_listed(path, "report.json"))["recipe"]["data"]
        source, place, size = str(made_for["source"]), made_for["folder"], made_for.get("size")
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} has no report.json that says what data it was made for; name it with --data"
        ) from None
    if source.startswith("hf:"):  # the artifact may be a stranger's, and the name one that is fetched
        raise ValueError(f"{path} was made for {source}; to open that data set, say --data {source}")
    if runs_code(source):
        raise ValueError(f"{path} was made for data of the function {source}; to run that code, say --data {source}")
    return load_data(source, folder or place, progress, size)
