"""Save a network as a folder, and load it again: no pickle, and no code that the folder names."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar import __version__
from attar.artifact.description import DTYPES, Description, Input
from attar.artifact.errors import ArtifactError
from attar.artifact.limits import build_within, largest, portable
from attar.artifact.manifest import (
    LARGEST_JSON,
    MANIFEST,
    Content,
    parse_json,
    read_file,
    read_manifest,
    replace_folder,
    to_json,
    write_files,
)
from attar.artifact.replay import count, difference, exceeded, golden_logits
from attar.artifact.weights import check_finite, check_forms, fill, from_bytes, own_tensors, to_bytes
from attar.models import BuilderSpec

WEIGHTS = "model.safetensors"
ARCHITECTURE = "arch.json"
GOLDEN = "golden.safetensors"
OWN = (WEIGHTS, ARCHITECTURE, GOLDEN)


def save(
    folder: str | Path,
    model: nn.Module,
    builder: BuilderSpec | None,
    *,
    input_size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    golden: torch.Tensor,
    surgery: dict[str, Any] | None = None,
    class_names: Sequence[str] = (),
    budget: Mapping[str, float] | None = None,
    extras: Mapping[str, Content] | None = None,
) -> Path:
    """Save a network as a folder: `model.safetensors`, `arch.json`, `golden.safetensors`, `manifest.json` and extras.

    The folder appears whole or not at all (one that holds an artifact is replaced), after what was written has been
    loaded again, counted, and found to compute the same. The network itself is not changed.

    Args:
        folder: where; its parent must exist.
        model: the network; its outputs are logits (B, classes).
        builder: how the uncut network is made; None if only your code can, to be given to `load` again.
        input_size: (channels, height, width).
        mean, std: for each channel, of pixels in 0..1.
        golden: uint8 (B, channels, height, width), images whose logits are stored to compare with ever after.
        surgery: what `attar.prune.describe` says of a network that was cut.
        class_names: names in the order of the logits.
        budget: absolute limits on `params`, `macs`, `bytes`, `latency`; what was counted is held against them.
        extras: further files by name, e.g. {"report.json": "..."}.

    Raises:
        ArtifactError: something cannot be saved so that it loads again, or exceeds the budget.
    """
    target = Path(folder)
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} exists and is no artifact; it is not overwritten")
    if taken := set(OWN) & set(extras or {}):
        raise ArtifactError(f"extras cannot be called {', '.join(sorted(taken))}: these files are attar's own")
    dtype = dtype_name(model)
    description = Description(
        builder=None if builder is None else portable(builder),
        surgery=surgery,
        input=Input(as_size(input_size), tuple(map(float, mean)), tuple(map(float, std)), dtype),
        dtype=dtype,
        class_names=tuple(class_names),
        budget=dict(budget or {}),
        versions={"attar": __version__, "torch": str(torch.__version__)},
    )
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        write(partial, model, description, golden)
        write_files(partial, extras or {})
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def write(folder: Path, model: nn.Module, description: Description, golden: torch.Tensor) -> None:
    """Write attar's own files, counting and computing on what was read back from them."""
    tensors = own_tensors(model)
    check_finite(tensors, dict(model.named_parameters()))
    weights = to_bytes(tensors)
    write_files(folder, {WEIGHTS: weights, ARCHITECTURE: to_json(description.to_dict())})
    loaded = read_back(folder, model, description)
    logits = golden_logits(loaded, description.input, golden)
    check_same(model, loaded, golden_logits(copy_of(model), description.input, golden), logits)
    description.names(logits.shape[1])  # raises where there are too few or too many
    counts = count(loaded, description, len(weights))
    if over := exceeded(counts, description.budget):
        raise ArtifactError(f"the network exceeds its budget: {'; '.join(over)}")
    final = Description(**{**vars(description), "counts": counts})
    content: dict[str, Content] = {
        ARCHITECTURE: to_json(final.to_dict()),
        GOLDEN: to_bytes({"images": golden, "logits": logits}),
    }
    write_files(folder, content)


def read_back(folder: Path, model: nn.Module, description: Description) -> nn.Module:
    """Load what was just written. Who saves a network of his own code trusts that code."""
    if description.builder is not None:
        return load(folder, allow=[description.builder.name])
    loaded = copy_of(model)
    fill(loaded, from_bytes((folder / WEIGHTS).read_bytes(), WEIGHTS))
    return loaded


def as_size(values: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width); raises ArtifactError."""
    if isinstance(values, str) or len(values) != 3:
        raise ArtifactError(f"input_size must be (channels, height, width), not {values!r:.100}")
    return values[0], values[1], values[2]


def dtype_name(model: nn.Module) -> str:
    """The one dtype of the network's parameters; raises ArtifactError where there are several."""
    found = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} or {torch.float32}
    names = [name for name, dtype in DTYPES.items() if dtype in found]
    if len(found) != 1 or len(names) != 1:
        raise ArtifactError(
            f"the parameters must be of one type among {', '.join(DTYPES)}, not {sorted(map(str, found))}"
        )
    return names[0]


def copy_of(model: nn.Module) -> nn.Module:
    """The network on the CPU, in eval mode, apart from the one that it copies."""
    from attar.prune.undisturbed import copied  # loading does without the engine

    return copied(model).cpu().eval()


def check_same(model: nn.Module, loaded: nn.Module, before: torch.Tensor, after: torch.Tensor) -> None:
    """Raise ArtifactError unless what was loaded holds and computes what was saved."""
    saved = own_tensors(model)
    for name, tensor in own_tensors(loaded).items():
        if not torch.equal(tensor, saved[name].cpu()):
            raise ArtifactError(f"{name} does not come back as it was saved")
    if differ := difference(before, after):
        raise ArtifactError(f"the network that loads computes something else than the one that was saved: {differ}")


def load(
    path: str | Path,
    *,
    builder: Callable[..., nn.Module] | None = None,
    allow: Collection[str] = (),
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load an artifact: a ready network in eval mode, with its `Description` as attribute `artifact`.

    `model.artifact.input.normalise(images)` turns raw uint8 images into what the network takes. The random state of
    torch is left as it was.

    Args:
        path: the artifact's folder.
        builder: your function that returns the uncut network, where only your code can make it; called with the
            arguments that the file has.
        allow: names of builders, such as "package.module:function", that the file may call; none unless you say so.
        device: where the network shall be.

    Raises:
        ArtifactError: the folder is none, was changed or cut short, has another version, does not fit together, or asks
            for what is not done unasked. Nothing that the folder names has been run then.
    """
    folder = Path(path)
    files = read_manifest(folder)
    description = read_description(folder, files)
    content = read_file(folder, files, WEIGHTS)
    tensors = from_bytes(content, WEIGHTS)
    model = build_within(description.builder, len(content), builder, allow)
    if description.dtype != "float32":
        model = model.to(DTYPES[description.dtype])
    if description.surgery is not None:
        model = cut(model, description.surgery)
    check_forms(tensors, own_tensors(model))
    check_finite(tensors, dict(model.named_parameters()))
    fill(model, tensors)
    model.artifact = description  # type: ignore[assignment]
    return model.to(device).eval()


def describe(path: str | Path) -> Description:
    """What an artifact says of itself; nothing is built.

    Raises:
        ArtifactError: the folder holds no artifact, or a damaged one.
    """
    folder = Path(path)
    return read_description(folder, read_manifest(folder))


def read_description(folder: Path, files: Mapping[str, Any]) -> Description:
    """The content of arch.json, checked against the manifest."""
    content = read_file(folder, files, ARCHITECTURE)
    if len(content) > LARGEST_JSON:
        raise ArtifactError(f"{ARCHITECTURE} is larger than {LARGEST_JSON:,} bytes")
    return Description.from_dict(parse_json(content, ARCHITECTURE))


def cut(model: nn.Module, surgery: dict[str, Any]) -> nn.Module:
    """The uncut network brought to its final shapes; raises ArtifactError if the surgery is not one that cuts it."""
    from attar.prune import reshape  # only networks that were cut need the engine

    attributes = surgery.get("attributes")
    try:
        for path, values in attributes.items() if isinstance(attributes, dict) else ():
            module = model.get_submodule(path)
            for name, value in values.items():
                if largest(value) > largest(vars(module).get(name, 0)):
                    raise ValueError(f"it makes {path}.{name} larger, {value!r:.100}; cutting only makes smaller")
        return reshape(model, surgery)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"arch.json: surgery does not fit the network: {error}") from error
