"""The command `attar`."""

from attar.cli import bench, compare, compress, control, export, predict, record, sweep  # noqa: F401  (the module adds its commands)
from attar.cli.app import main

__all__ = ["main"]
