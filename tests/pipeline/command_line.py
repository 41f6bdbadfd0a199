"""Calling the command within a test."""

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from attar.cli.app import app


def attar(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cells(said: str, first: str) -> list[str]:
    """The further cells of the one row of a printed table that begins with this cell."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| ")]
    (found,) = (row[1:] for row in rows if row[0] == first)
    return found
