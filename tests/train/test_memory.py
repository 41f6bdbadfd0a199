"""Freed memory stays with the process, so that a step's activations cost no page faults."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from attar.recipe import Compute
from attar.train import Machine

if sys.argv[1] == "attar":
    Machine.choose(Compute(device="cpu", threads=1))


def step():
    kept = [torch.full((1 << 20,), 1.0) for _ in range(16)]  # 64 MB, as a step's activations, then all freed


step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_steps_reuse_memory() -> None:
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True).stdout)
        for kind in ("plain", "attar")
    )
    assert 2 * kept < plain  # 3,000 against 17,000 to 80,000, as the system gives huge pages or not
