"""The network as a `torch.export` program: runs with torch alone, batch free, normalisation inside, no pickle.

Opening such a file is safe only after `check_program`: torch's own loader unpickles what the archive holds, calls any
function that the program names, and evaluates its expressions.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.artifact.description import description_of
from attar.artifact.errors import ArtifactError
from attar.artifact.views import PT2, FromPixels, Runner, View, add_view, example, load_float32
from attar.models import exporter_quiet
from attar.operations import check_arguments, operation_named

PARTS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
OF_SIZES = re.compile(r"_operator\.(add|sub|mul|floordiv|mod|getitem|eq|ne|lt|le|gt|ge|neg)")
EXPRESSION = re.compile(
    r"(Symbol\('[su]\d++'(, (positive|nonnegative|integer)=True)*+\)|Integer\(-?\d++\)|-?\d++"
    r"|Add|Mul|Mod|FloorDiv|Min|Max|[(), ])*+"
)
"""Possessive throughout: what does not match must not be tried in every way."""
LONGEST_EXPRESSION = 10_000
TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def export_pt2(
    path: str | Path, *, builder: Callable[..., nn.Module] | None = None, allow: Collection[str] = ()
) -> View:
    """Add `model.pt2` to an artifact, after it has replayed the golden batch.

    `torch.export.load("model.pt2").module()` takes images uint8 (batch, C, H, W), raw pixels, and gives logits float32.
    `builder` and `allow` are those of `load`.

    Raises:
        ArtifactError: the network cannot be exported, or the file does not compute what the network does.
    """
    folder = Path(path)
    model = load_float32(folder, builder, allow)
    form = description_of(model).input
    content = to_program(FromPixels(model, form), example(form))
    return add_view(folder, PT2, content, open_program(content))


def to_program(network: nn.Module, images: torch.Tensor) -> bytes:
    """A .pt2 file without pickles and without traces of where it was made; raises ArtifactError."""
    try:
        with exporter_quiet():
            program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AssertionError,
    ) as error:  # torch.export's own errors derive from these
        raise ArtifactError(f"the network cannot be exported: {error}") from error
    for node in program.graph.nodes:
        for trace in TRACES:
            node.meta.pop(trace, None)
    program._example_inputs = None  # would be pickled
    buffer = io.BytesIO()
    with exporter_quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def open_program(content: bytes) -> Runner:
    """Run a .pt2 file on the CPU, once `check_program` has found nothing in it but a network; raises ArtifactError."""
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:  # torch reads what was checked, not what its own reader would find
        for name, part in check_program(content).items():
            archive.writestr(f"archive/{name}", part)
    checked.seek(0)
    try:
        with exporter_quiet():
            network = torch.export.load(checked).module()
    except Exception as error:  # torch's loader names no errors
        raise ArtifactError(f"torch.export cannot load the file: {error!s:.300}") from error

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(images.cpu())

    return run


def check_program(content: bytes) -> dict[str, bytes]:
    """The parts of a .pt2 file, if they are nothing but tensors and a graph of torch's own tensor operations.

    Nothing is loaded: the archive is read as a zip of JSON and raw numbers. Raises ArtifactError.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
            if len(members) != len(archive.infolist()) or sum(m.file_size for m in members.values()) > len(content):
                raise ArtifactError("the .pt2 file is no plain archive: parts are repeated or compressed")
            for name, member in members.items():
                if not PARTS.fullmatch(name):
                    raise ArtifactError(f"the .pt2 file holds {name!r:.100}, which no network needs")
                if name.endswith(".pt") and member.file_size:
                    raise ArtifactError("the .pt2 file holds a pickle (sample inputs)")
            parts = {name: archive.read(member) for name, member in members.items()}
    except ArtifactError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"the .pt2 file is no archive: {error}") from error
    if "models/model.json" not in parts:
        raise ArtifactError("the .pt2 file holds no program")
    for name, text in parts.items():
        if not name.endswith(".json"):
            continue
        try:
            entries = list(walk(json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"the .pt2 file's {name} cannot be read: {error}") from error
        for key, value in entries:
            check_entry(key, value)
    return parts


def check_entry(key: str, value: Any) -> None:
    """Raise ArtifactError for an entry that could make torch run something else than tensor operations."""
    if key == "use_pickle" and value is not False:
        raise ArtifactError("the .pt2 file holds a pickle")
    if key == "target":
        check_target(value)
    if key == "nodes":
        for node in value if isinstance(value, list) else ():
            check_inputs(node)
    if key == "expr_str" and not (
        isinstance(value, str) and len(value) <= LONGEST_EXPRESSION and EXPRESSION.fullmatch(value)
    ):
        raise ArtifactError(f"the .pt2 file has the expression {value!r:.100}, which is no size")
    if key in ("as_operator", "as_custom_obj", "as_script_object") or (key == "guards_code" and value):
        raise ArtifactError(f"the .pt2 file holds code ({key})")
    if key in ("in_spec", "out_spec") and isinstance(value, str):
        kinds = set(re.findall(r'"type": *"([^"]*)"', value))
        if not kinds <= {"builtins.tuple", "builtins.dict", "builtins.list"} or "\\" in value:
            raise ArtifactError(f"the .pt2 file has inputs or outputs of its own kind: {sorted(kinds)}")


def check_target(name: Any) -> None:
    """Raise ArtifactError for what is no tensor operation and no arithmetic of sizes."""
    if isinstance(name, str) and OF_SIZES.fullmatch(name):
        return
    try:
        operation_named(str(name))
    except ValueError as error:
        raise ArtifactError(f"the .pt2 file calls {name!r:.100}, which is no tensor operation") from error


def check_inputs(node: Any) -> None:
    """Raise ArtifactError where an operation is given what it does not check; what else is wrong with a node torch refuses."""
    try:
        target = node["target"]
        check_target(target)
        if OF_SIZES.fullmatch(target):
            return
        operation = operation_named(target)
        names = [argument.name for argument in operation._schema.arguments]
        by_place = [item["name"] for item in node["inputs"] if item.get("kind") == 1]
        if set(by_place) != set(names[: len(by_place)]):
            raise ArtifactError(f"the .pt2 file gives {target!r:.100} its arguments out of their places")
        check_arguments(operation, {item["name"]: _literal(item["arg"]) for item in node["inputs"]})
    except ArtifactError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"the .pt2 file holds a node that cannot be run: {error}") from error


def _literal(argument: Any) -> Any:
    """An argument of the file as a value: for types and layouts, which torch looks up by itself, any one of them."""
    ((kind, value),) = argument.items()
    looked_up = {
        "as_scalar_type": torch.float32,
        "as_layout": torch.strided,
        "as_memory_format": torch.contiguous_format,
    }
    return None if kind == "as_none" else looked_up.get(kind, value)


def walk(data: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested tables and lists."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield key, value
            yield from walk(value)
    elif isinstance(data, list):
        for item in data:
            yield from walk(item)
