"""The command `attar`."""

from attar.cli.app import main

__all__ = ["main"]
