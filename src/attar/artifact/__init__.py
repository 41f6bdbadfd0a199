"""The folder that leaves the house: saved whole, loaded without pickle, checked against itself."""

from attar.artifact.description import Description, Input
from attar.artifact.errors import ArtifactError
from attar.artifact.evaluate import Evaluation, evaluate, predict
from attar.artifact.folder import load, save
from attar.artifact.manifest import write_files
from attar.artifact.verify import Check, Verification, verify

__all__ = [
    "ArtifactError",
    "Check",
    "Description",
    "Evaluation",
    "Input",
    "Verification",
    "evaluate",
    "load",
    "predict",
    "save",
    "verify",
    "write_files",
]
