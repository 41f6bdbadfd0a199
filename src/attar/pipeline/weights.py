"""Weights that the user brings: safetensors, or a state dict that torch saved. Nothing else is unpickled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from attar.recipe import RecipeError

WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
"""Keys under which training scripts put the state dict beside epochs and optimisers."""


def load_weights(model: torch.nn.Module, path: Path, place: str, data: tuple[int, int] | None = None) -> None:
    """Load a file of weights strictly.

    Args:
        model: the network, whose state is set.
        path: safetensors, or what `torch.save(model.state_dict(), path)` wrote.
        place: in the recipe, for messages.
        data: channels and classes of the data, to say it clearly where the weights are for others.

    Raises:
        RecipeError: no such file, damaged, not plain tensors, not of this network, or not finite; with the place in the
            recipe.
    """
    weights = read_weights(path, place)
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    differing = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unknown or differing:
        said = [f"{len(missing)} tensors missing (first: {missing[0]})"] if missing else []
        said += [f"{len(unknown)} tensors too many (first: {unknown[0]})"] if unknown else []
        said += [
            f"{name} is {list(weights[name].shape)}, the network needs {list(own[name].shape)}"
            for name in differing[:3]
        ]
        if data is not None:
            said += _reasons([(weights[name].shape, own[name].shape) for name in differing], *data)
        raise RecipeError(f"{place} = {str(path)!r} does not fit the network: {'; '.join(said)}")
    model.load_state_dict(weights)
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    broken += [name for name, buffer in model.named_buffers() if buffer.isnan().any()]  # masks of attention hold -inf
    if broken:
        raise RecipeError(f"{place} = {str(path)!r}: {len(broken)} tensors are not finite, first {broken[0]}")


def read_weights(path: Path, place: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by name; a wrapper around the state dict and DataParallel's `module.` are taken off.

    Raises:
        RecipeError: as `load_weights`, but for what fits the network.
    """
    if not path.is_file():
        what = "it is a folder; name a file in it" if path.is_dir() else "there is no such file"
        raise RecipeError(f"{place} = {str(path)!r}: {what}")
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        if path.suffix == ".safetensors":
            raise RecipeError(f"{place} = {str(path)!r}: cannot be read as safetensors ({error})") from None
        found = _state_dict(path, place)
    if found and all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _state_dict(path: Path, place: str) -> dict[str, torch.Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RecipeError(
            f"{place} = {str(path)!r} holds Python objects, which attar does not unpickle; "
            "write the tensors alone: torch.save(model.state_dict(), ...), or safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise RecipeError(f"{place} = {str(path)!r}: neither safetensors nor torch's format ({error!s:.200})") from None
    for key in ("", *WRAPPERS):
        inner = content if not key else content.get(key) if isinstance(content, dict) else None
        if isinstance(inner, dict) and inner and all(isinstance(value, torch.Tensor) for value in inner.values()):
            return {str(name): tensor for name, tensor in inner.items()}
    raise RecipeError(f"{place} = {str(path)!r} holds no state dict: names with tensors")


def _reasons(differing: list[tuple[torch.Size, torch.Size]], channels: int, classes: int) -> list[str]:
    """What the shapes that differ (in the file, in the network) say about the data that the weights are for."""
    reasons = []
    for has, needs in differing:
        if len(has) == 4 and has[0] == needs[0] and has[2:] == needs[2:] and needs[1] == channels:
            reasons.append(f"the weights are for images of {has[1]} channels, the data's have {channels}")
        if len(has) == 2 and has[1:] == needs[1:] and needs[0] == classes:
            reasons.append(f"the weights tell {has[0]} classes apart, the data has {classes}")
    return list(dict.fromkeys(reasons))
