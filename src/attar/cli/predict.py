"""`attar predict`: what is in these pictures?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import Allow, app
from attar.cli.errors import FAILED, explained
from attar.cli.terminal import plain


@app.command()
def predict(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    top: Annotated[int, typer.Option(help="Classes to show for each picture.", min=1)] = 3,
    view: Annotated[str | None, typer.Option(help="onnx, int8 or pt2.", show_default="the network in torch")] = None,
    allow: Allow = None,
) -> None:
    """Name what is in pictures, with probabilities. Exit code 1 if a picture could not be read."""
    with explained():
        from attar.artifact import classify

        failed = 0
        for guess in classify(artifact, pictures, top=top, view=view, allow=allow or ()):
            if guess.error:
                failed += 1
                print(plain(f"attar: {guess.file}: {guess.error}"), file=sys.stderr)
                continue
            print(plain(f"{guess.file}: " + ", ".join(f"{name} {share:.1%}" for name, share in guess.classes)))
        if failed:
            print(f"attar: {failed} of {len(pictures)} pictures could not be read", file=sys.stderr)
            raise typer.Exit(FAILED)
