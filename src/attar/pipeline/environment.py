"""What a run was made with: versions, machine, commit and command, recorded so that it can be made again."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("attar", "torch", "numpy", "safetensors", "pydantic")


def environment() -> dict[str, Any]:
    """Versions of what computes, the processor, the operating system, and the commit of attar's source where known."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def peak_memory() -> dict[str, int]:
    """Bytes at most: `process`, resident since the process began; `cuda`, of tensors since `forget_peak`, where a GPU is used."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_initialized():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def forget_peak() -> None:
    """Begin anew to look for the GPU's peak. (That of the process cannot be forgotten.)"""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def command() -> str:
    """The command line of this process, as far as it was a command; quoted, so that a shell takes it as it was."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join(["attar" if program in ("__main__.py", "attar") else program, *sys.argv[1:]])


def package_version(name: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that attar was imported from, with `+changes` if it was edited.

    Where the code lies without its repository (installed, or copied to another machine): what ATTAR_COMMIT says, or None.
    """
    folder = Path(__file__).parent
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # not somebody else's repository around us
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("ATTAR_COMMIT") or None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
