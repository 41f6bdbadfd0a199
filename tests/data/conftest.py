"""The real Fashion-MNIST, loaded once; where it cannot be had the loader's own message is the failure."""

import pytest

from attar.data import ImageData, load_data


@pytest.fixture(scope="session")
def fashion() -> ImageData:
    return load_data("fashion-mnist")


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")
