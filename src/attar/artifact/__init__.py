"""The folder that leaves the house: saved whole, loaded without pickle, checked against itself."""

from attar.artifact.description import Description, Input
from attar.artifact.errors import ArtifactError
from attar.artifact.evaluate import Evaluation, evaluate, predict
from attar.artifact.folder import load, save
from attar.artifact.int8_view import quantise_int8
from attar.artifact.manifest import write_files
from attar.artifact.onnx_view import export_onnx
from attar.artifact.pt2_view import export_pt2
from attar.artifact.runners import open_view, view_names
from attar.artifact.verify import Check, Verification, verify
from attar.artifact.views import View

__all__ = [
    "ArtifactError",
    "Check",
    "Description",
    "Evaluation",
    "Input",
    "Verification",
    "View",
    "evaluate",
    "export_onnx",
    "export_pt2",
    "load",
    "open_view",
    "predict",
    "quantise_int8",
    "save",
    "verify",
    "view_names",
    "write_files",
]
