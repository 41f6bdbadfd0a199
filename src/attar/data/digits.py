"""scikit-learn's digits (8x8, 10 classes): a data set for tests, there in no time."""

from pathlib import Path

from attar.data.images import DataError, ImageData, Progress, image_data
from attar.data.split import split

NAME = "digits"
TEST_IMAGES = 360
_FINGERPRINT = "9b4d7a0be899febfb0a3d4b5f08068b8becbad8524d600f3d2a6daab5357e4de"


def load_digits(folder: Path | None = None, progress: Progress | None = None) -> ImageData:
    """1,437 training and 360 test images, (1, 8, 8), ink 0..16 scaled to 0..255.

    scikit-learn has no test part; ours is the stratified split of seed 0, the same everywhere. Raises DataError if
    scikit-learn is missing, or if its digits are not the ones attar knows.
    """
    import torch

    try:
        import sklearn.datasets
    except ImportError as error:
        raise DataError("the data set 'digits' comes with scikit-learn: pip install 'attar[digits]'") from error
    ink, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = torch.from_numpy((ink.astype("int64") * 255 + 8) // 16).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(labels.astype("int64"))
    parts = split(labels, TEST_IMAGES, seed=0)
    data = image_data(
        NAME,
        (images[parts.train], labels[parts.train]),
        (images[parts.held_out], labels[parts.held_out]),
        tuple("0123456789"),
        f"scikit-learn {sklearn.__version__}",
    )
    if data.fingerprint != _FINGERPRINT:
        raise DataError(
            f"the digits of scikit-learn {sklearn.__version__} are not those that attar knows (sha256"
            f" {data.fingerprint}, not {_FINGERPRINT}): install another version of scikit-learn"
        )
    return data
