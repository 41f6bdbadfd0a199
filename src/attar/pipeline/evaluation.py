"""An artifact's accuracy on a data set's test images, without recipe or run."""

from __future__ import annotations

import json
from pathlib import Path

from attar import artifact
from attar.data import load_data


def evaluate_artifact(
    path: str | Path, data: str | None = None, folder: str | Path | None = None
) -> tuple[artifact.Evaluation, str]:
    """Evaluate an artifact on the test images of `data`, by default the data set that its report names.

    Returns:
        The evaluation and the data set's name.

    Raises:
        ArtifactError: the artifact cannot be opened, or the images are not of its kind.
        DataError: the data cannot be had.
        ValueError: no data was named and the artifact has no report that names one.
    """
    model = artifact.load(path)
    if data is None:
        report = Path(path) / "report.json"
        if not report.is_file():
            raise ValueError(f"{path} has no report.json that says what data it was made for; name it with --data")
        data = str(json.loads(report.read_text())["data"]["name"])
    images = load_data(data, folder)
    return artifact.evaluate(model, images.test_images, images.test_labels), data
