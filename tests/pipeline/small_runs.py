"""The recipe of digits in seconds: what to override."""

from pathlib import Path

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.toml"
SMALL = (
    "compute.precision=fp32", "compute.device=cpu", "compute.threads=1",
    "teacher.arguments.widths=[4,6,8]", "teacher.train.epochs=1", "teacher.train.warmup=0",
    "student.arguments.widths=[4,6,8]", "distil.train.epochs=1", "distil.train.warmup=0",
    "prune.steps=2", "prune.train.epochs=0.2", "prune.final.epochs=0.5",
    "export.onnx=false", "export.pt2=false", "export.int8=false",
)  # fmt: skip
