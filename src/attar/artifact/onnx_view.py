"""The network as ONNX, by torch's exporter: batch free, normalisation inside, BatchNorm folded into convolutions."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.artifact.description import Description, description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.folder import WEIGHTS
from attar.artifact.manifest import read_manifest
from attar.artifact.views import ONNX, FromPixels, Runner, View, add_view, example, import_extra, load_float32
from attar.models import exporter_quiet

INPUT, OUTPUT = "images", "logits"
REPEATING = frozenset(("Loop", "Scan", "SequenceMap"))
DOMAINS = frozenset(("", "ai.onnx"))
"""Operations of the standard itself; others, such as a runtime's own EPContext, may name files or foreign code."""


def export_onnx(
    path: str | Path, *, builder: Callable[..., nn.Module] | None = None, allow: Collection[str] = ()
) -> View:
    """Add `model.onnx` to an artifact, after it has replayed the golden batch.

    Input `images`: uint8 (batch, C, H, W), raw pixels. Output `logits`: float32 (batch, classes). Class names, mean and
    std are in the file's metadata too. `builder` and `allow` are those of `load`.

    Raises:
        ArtifactError: onnx, onnxscript or onnxruntime are missing, the network cannot be exported, or the file does not
            compute what the network does.
    """
    folder = Path(path)
    model = load_float32(folder, builder, allow)
    content = onnx_of(model, description_of(model), read_manifest(folder)[WEIGHTS].sha256)
    return add_view(folder, ONNX, content, open_onnx(content))


MADE_OF = "attar.weights_sha256"
"""The fact of a file that says which weights it was made of; one that was fine-tuned for int8 has none."""


def onnx_of(model: nn.Module, description: Description, weights: str = "") -> bytes:
    """The ONNX file of a network in eval mode, float32, on the CPU; raises ArtifactError.

    `weights` is the SHA-256 of its weights file, if it has one.
    """
    facts = {
        "attar.input": f"uint8 {list(description.input.size)}, raw pixels 0..255; normalised inside",
        "attar.mean": str(list(description.input.mean)),
        "attar.std": str(list(description.input.std)),
        "attar.class_names": "\n".join(description.class_names),
        **({MADE_OF: weights} if weights else {}),
    }
    return to_onnx(FromPixels(model, description.input), example(description.input), facts)


def to_onnx(network: nn.Module, images: torch.Tensor, facts: dict[str, str]) -> bytes:
    """An ONNX file without traces of where it was made; raises ArtifactError."""
    import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    try:
        with exporter_quiet():
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ArtifactError(f"the network cannot be exported to ONNX: {error}") from error
    assert program is not None
    model = program.model_proto
    strip(model)
    for key, value in sorted(facts.items()):
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString(deterministic=True)


def strip(model: Any) -> None:
    """Take away what only the exporter's authors need: stack traces with paths, intermediate shapes, comments."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    for part in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph]:
        part.doc_string = ""
        del part.metadata_props[:]


def check_alone(content: bytes) -> None:
    """Raise ArtifactError if the file wants anything outside itself or the ONNX standard, or could run forever."""
    onnx = import_extra("onnx", "onnx")
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's errors have no common base
        raise ArtifactError(f"the file is no ONNX: {error!s:.300}") from error
    if model.functions:
        raise ArtifactError("the ONNX file brings functions of its own; no network that attar exports needs any")
    if model.training_info:
        raise ArtifactError("the ONNX file brings graphs for training; no file that attar exports has any")
    for part in messages(model):
        if part.DESCRIPTOR.name == "NodeProto" and part.domain not in DOMAINS:
            raise ArtifactError(
                f"the ONNX file asks for {part.op_type} of {part.domain!r}, which is not of the ONNX standard"
            )
        if part.DESCRIPTOR.name == "NodeProto" and part.op_type in REPEATING:
            raise ArtifactError(
                f"the ONNX file repeats itself ({part.op_type}); no network that attar exports needs to"
            )
        if part.DESCRIPTOR.name == "TensorProto" and (part.external_data or part.data_location == part.EXTERNAL):
            raise ArtifactError("the ONNX file wants numbers outside itself; they are not read")


def messages(part: Any) -> Iterator[Any]:
    """A protobuf message and all that it holds, at any depth."""
    yield part
    for field, value in part.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from messages(inner)


def made_of(content: bytes) -> str:
    """SHA-256 of the weights file that a file which `check_alone` has passed says it was made of; empty where it says nothing."""
    said = import_extra("onnx", "onnx").load_from_string(content).metadata_props
    return next((str(fact.value) for fact in said if fact.key == MADE_OF), "")


def open_onnx(content: bytes, threads: int | None = None) -> Runner:
    """Run an ONNX file on the CPU; nothing but its own bytes is read.

    Args:
        content: the file.
        threads: within an operation; ONNX Runtime's choice unless given.

    Raises ArtifactError if onnxruntime is missing or refuses the file.
    """
    runtime = import_extra("onnxruntime", "onnx")
    check_alone(content)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise ArtifactError(f"ONNX Runtime refuses the file: {error!s:.300}") from error
    if [i.name for i in session.get_inputs()] != [INPUT] or [o.name for o in session.get_outputs()] != [OUTPUT]:
        raise ArtifactError(f"the ONNX file must take {INPUT!r} and give {OUTPUT!r}")

    def run(images: torch.Tensor) -> torch.Tensor:
        try:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.cpu().numpy()})[0])
        except Exception as error:
            raise ArtifactError(f"ONNX Runtime cannot run the file: {error!s:.300}") from error

    return run
