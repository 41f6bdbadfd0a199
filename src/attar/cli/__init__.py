"""The command `attar`."""

from attar.cli import compare  # noqa: F401  (the module adds its commands)
from attar.cli.app import main

__all__ = ["main"]
