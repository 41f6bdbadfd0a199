"""The code that runs on GPUs, on a device that is none: mixed devices, and steps that could not be recorded."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="torch cannot pretend a device"
)
def test_in_a_process_that_knows_the_device_from_its_start():
    """Autograd makes its queues for the devices that it finds at its first backward pass."""
    checks = Path(__file__).with_name("checks.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--show-capture=no",
        "--tb=short",
        str(checks),
    ]
    done = subprocess.run(command, cwd=checks.parents[2], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:]
