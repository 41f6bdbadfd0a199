"""The command `attar`."""

from attar.cli import bench, compare, control, export, predict  # noqa: F401  (the module adds its commands)
from attar.cli.app import main

__all__ = ["main"]
