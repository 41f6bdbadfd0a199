"""An artifact made anew for each test that wants to harm it."""

from pathlib import Path

import pytest
from saved_artifacts import network, save_network


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return save_network(tmp_path / "artifact", network())
