"""Surgery: slice a module's tensors in place and mend the numbers it keeps about them. Needs no capture.

`describe` writes the outcome down as plain JSON, `reshape` does it again to a freshly built original.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from attar.prune.modules import all_modules, named_tensors
from attar.prune.shipped import ship_written, shipped

Indices = dict[str, list[tuple[int, torch.Tensor]]]
"""Tensor -> [(dim, int64 indices that stay along it)]."""
Attributes = dict[str, dict[str, Any]]
"""Module path -> {attribute: value}."""

PLAIN = (bool, int, float)
WEIGHTS = (
    "weight",
    "parametrizations.weight.original",
    "parametrizations.weight.original1",
    "weight_orig",
    "weight_v",
)
"""Where a layer's weight, or what has its shape under a parametrization, is found."""
LEFT = "attar_left"
"""Attribute of a module that lost parts of a buffer which is not saved: name -> what is left of it (`Left`)."""
Left = list[list[int] | None]
"""For each dimension of a tensor the indices, in the original, that are left; None where all are."""


LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.Embedding,
    nn.PReLU,
)
"""torch's own layers that keep numbers about their tensors."""


def slice_tensor(tensor: torch.Tensor, cuts: Iterable[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The tensor with only these indices along these dimensions."""
    for dim, index in cuts:
        tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def cut_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], indices: Indices) -> None:
    """Slice parameters and buffers; each stays the same object, so optimisers made earlier still hold it. Gradients go."""
    with torch.no_grad():
        new = {name: slice_tensor(tensors[name].data, cuts).contiguous() for name, cuts in indices.items()}
    unsaved = {
        name: _left(model, name, tensors[name], indices[name]) for name in new.keys() - model.state_dict().keys()
    }
    for name, data in new.items():
        refill(tensors[name], data)
    for name, left in unsaved.items():
        _note_left(model, name, left)


def _owner(model: nn.Module, tensor: str) -> tuple[nn.Module, str]:
    path, _, name = tensor.rpartition(".")
    return model.get_submodule(path), name


def _left(model: nn.Module, tensor: str, now: torch.Tensor, cuts: Iterable[tuple[int, torch.Tensor]]) -> Left:
    """What is left of a tensor of the original after these cuts of what is left `now`."""
    owner, name = _owner(model, tensor)
    left = list(vars(owner).get(LEFT, {}).get(name) or [None] * now.dim())
    for dim, index in cuts:
        before = left[dim]
        left[dim] = index.tolist() if before is None else [before[i] for i in index.tolist()]
    return left


def _note_left(model: nn.Module, tensor: str, left: Left) -> None:
    owner, name = _owner(model, tensor)
    owner.__dict__[LEFT] = {**vars(owner).get(LEFT, {}), name: left}


def refill(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Give a tensor other contents, of another shape; its gradient goes.

    While a graph of an earlier forward is alive, autograd keeps the shape that gradients of the tensor must have. It forgets
    it where the type of the contents changes.
    """
    if tensor.requires_grad:
        other = torch.float32 if data.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=data.device)
    tensor.data = data
    tensor.grad = None


def is_plain(value: Any) -> bool:
    """Whether an attribute is a number or a list or tuple of numbers, which surgery may mend."""
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(item, PLAIN) for item in value)
    return isinstance(value, PLAIN)


def plain_attributes(model: nn.Module) -> Attributes:
    """All plain attributes of all modules, without torch's own marks."""
    return {
        path: {
            key: value
            for key, value in vars(module).items()
            if is_plain(value) and key != "training" and not key.startswith("__")
        }
        for path, module in all_modules(model).items()
    }


def set_attributes(model: nn.Module, attributes: Attributes) -> None:
    """Write attributes back; a list stays a list, a tuple a tuple."""
    modules = all_modules(model)
    for path, values in attributes.items():
        module = modules[path]
        for name, value in values.items():
            before = vars(module)[name]
            if before != value:
                module.__dict__[name] = type(before)(value) if isinstance(before, tuple | list) else value


def layer_attributes(model: nn.Module, shapes: Mapping[str, tuple[int, ...]], original: Attributes) -> Attributes:
    """What torch's own layers say about their tensors, for the shapes given.

    Args:
        shapes: shape of every tensor by name, after the cut.
        original: plain attributes before any cut.
    """
    result: Attributes = {}
    for path, module in all_modules(model).items():
        if not isinstance(module, LAYERS):
            continue
        prefix = f"{path}." if path else ""
        weight = shapes.get(prefix + "weight")
        if weight is None:  # a parametrization holds it
            weight = next((shapes[prefix + name] for name in WEIGHTS if prefix + name in shapes), None)
        if weight is None and not isinstance(module, nn.modules.batchnorm._NormBase):
            continue
        was = original.get(path, {})
        values = _layer(module, weight or (), was, shapes, path)
        result[path] = {key: value for key, value in values.items() if key in was}
    return result


def _layer(
    module: nn.Module, weight: tuple[int, ...], was: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], path: str
) -> dict[str, Any]:
    if isinstance(module, nn.modules.conv._ConvNd):
        made, read, groups = weight[0], weight[1], was["groups"]
        if module.transposed:
            made, read = read, made
            if was["in_channels"] == groups:
                groups = read
            return {"in_channels": read, "out_channels": made * groups, "groups": groups}
        if was["in_channels"] == groups > 1:
            groups = made * groups // was["out_channels"]
        return {"in_channels": read * groups, "out_channels": made, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": weight[1], "out_features": weight[0]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        tensor = weight or shapes.get(f"{path}.running_mean" if path else "running_mean")
        return {"num_features": tensor[0]} if tensor else {}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(weight)}
    if isinstance(module, nn.GroupNorm):
        groups = weight[0] if was["num_groups"] == was["num_channels"] else was["num_groups"]
        return {"num_channels": weight[0], "num_groups": groups}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    return {}


def describe(module: nn.Module, reference: nn.Module) -> dict[str, Any]:
    """How `module` differs from the network it was cut from, as plain JSON: `tensors` (name -> shape), `attributes`
    (whole numbers that became smaller), `left` (buffer that is not saved -> for each dimension the indices that stayed, or
    None where all did), and `graphs` (module path -> graph) of modules that run their captured graph (see `Pruner.mode` and
    `Pruner.parts`).

    Args:
        module: the network after the cut.
        reference: the network as it was built, not cut.
    """
    now, was = named_tensors(module), named_tensors(reference)
    tensors = {name: list(t.shape) for name, t in now.items() if name in was and t.shape != was[name].shape}
    before = plain_attributes(reference)
    attributes: dict[str, dict[str, Any]] = {}
    for path, values in plain_attributes(module).items():
        changed = {
            key: list(value) if isinstance(value, tuple | list) else value
            for key, value in values.items()
            if key in before.get(path, {}) and _smaller(value, before[path][key])
        }
        if changed:
            attributes[path] = changed
    unsaved = {name: _owner(module, name) for name in tensors.keys() - module.state_dict().keys()}
    noted = {name: vars(owner).get(LEFT, {}).get(own) for name, (owner, own) in sorted(unsaved.items())}
    optional = {"left": {name: left for name, left in noted.items() if left}, "graphs": shipped(module)}
    return {"tensors": tensors, "attributes": attributes, **{part: told for part, told in optional.items() if told}}


def _smaller(value: Any, before: Any) -> bool:
    """Whether whole numbers fell and nothing else changed, as in a cut; code may note other things about its own runs."""
    if isinstance(value, tuple | list) and isinstance(before, tuple | list):
        changed = [(new, old) for new, old in zip(value, before) if new != old]
        return len(value) == len(before) and bool(changed) and all(_smaller(new, old) for new, old in changed)
    return type(value) is type(before) is int and abs(value) < abs(before)


def reshape(model: nn.Module, description: Mapping[str, Any]) -> nn.Module:
    """Give a freshly built original the shapes and attributes that `describe` wrote down, in place; load weights after.

    Buffers that are not saved keep the indices that stayed; all other tensors are loaded and keep the first ones.

    Raises:
        ValueError: the description names a tensor, module or attribute that the model lacks, or a value that does not fit it.
    """
    tensors, attributes = named_tensors(model), dict(description.get("attributes", {}))
    if unknown := set(description) - {"tensors", "attributes", "left", "graphs"}:
        raise ValueError(f"the description of shapes has the unknown part {sorted(unknown)[0]!r}")
    shapes, left = description.get("tensors", {}), description.get("left", {})
    for name, shape in shapes.items():
        _check_shape(name, shape, tensors)
    for name, kept in left.items():
        _check_left(name, kept, shapes, tensors)
    for path, values in attributes.items():
        _check_attributes(model, path, values)
    if "graphs" in description:
        ship_written(model, description["graphs"])
    for name, shape in shapes.items():
        tensor = tensors[name]
        cuts = [(dim, torch.tensor(kept)) for dim, kept in enumerate(left.get(name, [])) if kept is not None]
        refill(tensor, slice_tensor(tensor.data, cuts)[tuple(slice(0, size) for size in shape)].clone())
    for name, kept in left.items():
        _note_left(model, name, list(kept))
    set_attributes(model, attributes)
    return model


def _check_shape(name: str, shape: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    if name not in tensors:
        raise ValueError(f"the description has a tensor {name!r}, which the model lacks")
    now = tuple(tensors[name].shape)
    good = isinstance(shape, list | tuple) and len(shape) == len(now)
    if not good or not all(type(new) is int and 1 <= new <= old for new, old in zip(shape, now)):
        raise ValueError(f"the description gives {name!r} the shape {shape!r}; the original's is {list(now)}")


def _check_left(name: str, left: Any, shapes: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """`left` must pick ascending indices of the original, as many as the shape says."""
    if name not in shapes:
        raise ValueError(f"the description says what is left of {name!r}, but gives it no shape")
    original, wanted = tensors[name].shape, shapes[name]
    good = isinstance(left, list) and len(left) == len(original)
    if not good or not all(
        size == old if kept is None else _picks(kept, size, old) for kept, size, old in zip(left, wanted, original)
    ):
        raise ValueError(
            f"the description leaves {left!s:.100} of {name!r}: of each dimension of {list(original)} that must be null or "
            f"ascending indices, as many as {list(wanted)} says"
        )


def _picks(kept: Any, size: int, old: int) -> bool:
    whole = isinstance(kept, list) and len(kept) == size and all(type(index) is int for index in kept)
    return whole and kept[0] >= 0 and kept[-1] < old and all(a < b for a, b in pairwise(kept))


def _check_attributes(model: nn.Module, path: str, values: Any) -> None:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"the description has a module {path!r}, which the model lacks") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"the description's attributes of {path!r} are no mapping: {values!r}")
    for name, value in values.items():
        before = vars(module).get(name)
        if name == "training" or name.startswith("__") or not is_plain(before):
            raise ValueError(f"{path or type(model).__name__} has no plain attribute {name!r} to be changed")
        kinds = [type(item) for item in before] if isinstance(before, tuple | list) else [type(before)]
        items = value if isinstance(before, tuple | list) and isinstance(value, list | tuple) else [value]
        if len(items) != len(kinds) or any(type(item) is not kind for item, kind in zip(items, kinds)):
            raise ValueError(f"{path}.{name} = {value!r} does not fit its original {before!r}")
