"""Calling the command within a test."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from attar.cli.app import app


def attar(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
