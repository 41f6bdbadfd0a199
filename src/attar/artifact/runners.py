"""Open any view of an artifact as one kind of thing: a function from raw pixels to logits."""

from pathlib import Path

from attar.artifact.errors import ArtifactError
from attar.artifact.manifest import read_file, read_manifest
from attar.artifact.onnx_view import open_onnx
from attar.artifact.pt2_view import open_program
from attar.artifact.views import INT8, ONNX, PT2, Runner

VIEWS = (ONNX, INT8, PT2)


def view_names(path: str | Path) -> list[str]:
    """Names of the views that an artifact has; raises ArtifactError if it is none."""
    files = read_manifest(Path(path))
    return [name for name in VIEWS if name in files]


def read_listed(path: str | Path, name: str) -> bytes:
    """The content of a file of the artifact, checked against the manifest; raises ArtifactError."""
    folder = Path(path)
    return read_file(folder, read_manifest(folder), name)


def open_view(path: str | Path, name: str, *, threads: int | None = None) -> Runner:
    """A function from images uint8 (B, C, H, W) to logits float32 (B, classes), computed by the view on the CPU.

    Args:
        path: the artifact's folder.
        name: `model.onnx`, `model.int8.onnx` or `model.pt2`.
        threads: of ONNX Runtime; a `.pt2` runs with torch's own threads.

    Raises:
        ArtifactError: there is no such view, it was changed, holds more than a network, or its library is missing.
    """
    if name not in VIEWS:
        raise ArtifactError(f"there is no view {name!r}; views are {', '.join(VIEWS)}")
    content = read_listed(path, name)
    return open_program(content) if name == PT2 else open_onnx(content, threads)
