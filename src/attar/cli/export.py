"""`attar export`: views added to an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attar.cli.app import Allow, app
from attar.cli.errors import FAILED, explained


@app.command()
def export(
    artifact: Annotated[Path, typer.Argument(help="An artifact's folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="model.onnx, for ONNX Runtime and everything like it.")] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="model.pt2, a torch.export program.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="model.int8.onnx, made from model.onnx.")] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Whose training images int8 is calibrated on.", show_default="what it was made for"),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data's files are.")] = None,
    images: Annotated[int, typer.Option(help="How many training images int8 looks at.", min=1)] = 512,
    allow: Allow = None,
) -> None:
    """Add views to an artifact: the network in files that run without attar. Exit code 1 if one fails or disagrees."""
    with explained():
        if not (onnx or pt2 or int8):
            raise ValueError("nothing to export: give --onnx, --pt2 or --int8")
        from attar.pipeline.exporting import export_views

        failed = False
        for row in export_views(artifact, onnx, pt2, int8, data, folder, images, allow or (), print):
            failed = failed or "error" in row or not row["agrees"]
        if failed:
            raise typer.Exit(FAILED)
