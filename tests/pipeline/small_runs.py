"""The recipe of digits in seconds: what to override."""

from pathlib import Path

DIGITS = Path(__file__).parents[2] / "recipes" / "digits.toml"
NETWORK = {"widths": (8, 12), "depths": (2, 2), "strides": (1, 2)}
"""Of `separable_resnet`, the teacher's and the student's."""
ARGUMENTS = "{" + ",".join(f"{name}={list(values)}" for name, values in NETWORK.items()) + "}"
SMALL = (
    "compute.precision=fp32", "compute.device=cpu", "compute.threads=1",
    "teacher.model=separable_resnet", f"teacher.arguments={ARGUMENTS}",
    "teacher.train.epochs=1", "teacher.train.warmup=0",
    "student.model=separable_resnet", f"student.arguments={ARGUMENTS}",
    "distil.train.epochs=1", "distil.train.warmup=0",
    "prune.steps=2", "prune.train.epochs=0.2", "prune.final.epochs=0.5",
    "export.onnx=false", "export.pt2=false", "export.int8=false",
)  # fmt: skip


def small(*changes: str) -> tuple[str, ...]:
    """SMALL with these overrides, in the place of its own where it has them."""
    values = dict(pair.split("=", 1) for pair in (*SMALL, *changes))
    return tuple(f"{key}={value}" for key, value in values.items())
