"""A fresh network in the final shapes of an artifact."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.nn.modules.conv import _ConvNd

from attar.artifact.errors import ArtifactError
from attar.artifact.folder import WEIGHTS, cut, read_description
from attar.artifact.manifest import read_file, read_manifest
from attar.artifact.weights import from_bytes, own_tensors


def shaped(model: nn.Module, path: str | Path) -> nn.Module:
    """Bring a freshly built network to an artifact's final shapes; its weights stay fresh.

    The units that stay are the first ones, so the initial weights keep the distribution that the builder drew them from.
    Where a linear layer or a convolution reads fewer units than its weight was drawn for, the weight is multiplied by
    sqrt(units before / after): every layer's output then starts with the variance that it has in the uncut network (He et al.
    2015).

    Args:
        model: the uncut network, built as the artifact's was; changed in place (or, where only its captured graph can be
            cut, made to run that).
        path: the artifact's folder.

    Raises:
        ArtifactError: no artifact, or one of another network.
    """
    folder = Path(path)
    files = read_manifest(folder)
    description = read_description(folder, files)
    before = units_read(model)
    if description.surgery is not None:
        model = cut(model, description.surgery)
    wanted = from_bytes(read_file(folder, files, WEIGHTS), WEIGHTS)
    own = {name: tuple(tensor.shape) for name, tensor in own_tensors(model).items()}
    if own != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        raise ArtifactError(f"{folder} holds another network than the one that is built here")
    parameters = dict(model.named_parameters())
    for name, now in units_read(model).items():
        if now < before[name]:
            parameters[name].data *= (before[name] / now) ** 0.5
    return model


def units_read(model: nn.Module) -> dict[str, int]:
    """How many units one output of a linear layer or a convolution reads, by the names of their weights."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, nn.Linear | _ConvNd) else None
        if weight is not None and isinstance(module, _ConvNd) and module.transposed:
            found[names[id(weight)]] = weight.shape[0] // module.groups
        elif weight is not None:
            found[names[id(weight)]] = weight.shape[1]
    return found
