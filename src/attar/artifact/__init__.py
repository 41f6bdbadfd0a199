"""The folder that leaves the house: saved whole, loaded without pickle, checked against itself."""

from attar.artifact.benchmark import Bench, Measured, bench, bench_all
from attar.artifact.classify import Guess, classify, open_runner, view_name
from attar.artifact.description import Description, Input
from attar.artifact.errors import ArtifactError
from attar.artifact.evaluate import Agreement, Evaluation, agreement, evaluate, predict
from attar.artifact.folder import describe, load, save
from attar.artifact.int8_view import quantise_int8
from attar.artifact.limits import build_within, check_permitted
from attar.artifact.manifest import write_files
from attar.artifact.onnx_view import export_onnx
from attar.artifact.pt2_view import export_pt2
from attar.artifact.runners import open_view, read_listed, view_names
from attar.artifact.timing import golden_images, runner_of, seconds_per_batch
from attar.artifact.verify import Check, Verification, verify
from attar.artifact.views import INT8, ONNX, PT2, Runner, View, missing_libraries

__all__ = [
    "INT8",
    "ONNX",
    "PT2",
    "Agreement",
    "ArtifactError",
    "Bench",
    "Check",
    "Description",
    "Evaluation",
    "Guess",
    "Input",
    "Measured",
    "Runner",
    "Verification",
    "View",
    "agreement",
    "bench",
    "bench_all",
    "build_within",
    "check_permitted",
    "classify",
    "describe",
    "evaluate",
    "export_onnx",
    "export_pt2",
    "golden_images",
    "load",
    "missing_libraries",
    "open_runner",
    "open_view",
    "predict",
    "quantise_int8",
    "read_listed",
    "runner_of",
    "save",
    "seconds_per_batch",
    "verify",
    "view_name",
    "view_names",
    "write_files",
]
