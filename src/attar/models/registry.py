"""Networks by name: attar's own, timm's, torchvision's, transformers' (hf), and any function that the user names."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from attar.models.checks import rename
from attar.models.densenet import densenet_bc
from attar.models.huggingface import build_huggingface, configured
from attar.models.plain import cnn5
from attar.models.preact import preact_resnet18, wide_resnet
from attar.models.resnet import cifar_resnet, resnet50
from attar.models.resnext import resnext29
from attar.models.separable import separable_resnet
from attar.names import closest, function_named

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (20, 32, 44, 56, 110)},
    "resnet50": resnet50,
    "cnn5": cnn5,
    "densenet_bc": densenet_bc,
    "preact_resnet18": preact_resnet18,
    "resnext29": resnext29,
    "separable_resnet": separable_resnet,
    "wide_resnet": wide_resnet,
}
LIBRARIES = {"attar": "attar", "timm": "timm", "torchvision": "torchvision", "hf": "transformers"}
"""What stands before the colon, and the package that it means."""
FITTING_TORCHVISION = "install the torchvision that fits your torch (see pytorch.org)"


@dataclass(frozen=True)
class BuilderSpec:
    """How a network is made, as plain data that JSON can hold."""

    name: str
    """`resnet20`, `timm:NAME`, `torchvision:NAME`, `hf:TYPE` or `package.module:function`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the builder: numbers, words, and lists of them."""

    def __post_init__(self) -> None:
        try:
            json.dumps(dict(self.arguments), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"arguments of the builder {self.name!r} must be plain data for JSON: {error}") from None

    @property
    def library(self) -> str:
        """`attar`, `timm`, `torchvision`, `hf`, or the user's package."""
        return split_name(self.name)[0]

    def build(self) -> nn.Module:
        """A freshly initialised network; the caller seeds torch. Raises ValueError as `build` does."""
        return build(self.name, **self.arguments)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: {"name": ..., "arguments": {...}}, sequences as lists."""
        return {"name": self.name, "arguments": json.loads(json.dumps(dict(self.arguments)))}

    @classmethod
    def from_dict(cls, data: Any) -> "BuilderSpec":
        """The inverse of `to_dict`; raises ValueError if the data has another form."""
        if not isinstance(data, dict) or set(data) != {"name", "arguments"} or not isinstance(data["name"], str):
            raise ValueError(f'a builder is {{"name": word, "arguments": {{...}}}}, not {data!r:.200}')
        if not isinstance(data["arguments"], dict):
            raise ValueError(
                f"arguments of the builder {data['name']!r} must be a table, not {data['arguments']!r:.200}"
            )
        return cls(data["name"], data["arguments"])


def builders() -> list[str]:
    """Names of attar's own networks."""
    return sorted(BUILDERS)


def build(name: str, /, **arguments: Any) -> nn.Module:
    """A freshly initialised network, in training mode; seed torch before for the same weights again.

    Args:
        name: one of `builders()` (`attar:` before it is allowed), `timm:NAME`, `torchvision:NAME`, `hf:TYPE` or
            `hf:FOLDER` (with a config.json), or `package.module:function`, which imports and calls the user's own code.
        arguments: those of the builder. `classes` and `in_channels` are understood for timm, torchvision and hf too.

    Raises:
        ValueError: unknown name (the closest is given), unknown or wrong argument, missing package, not a network.
    """
    library, local = split_name(name)
    if library == "attar":
        return build_own(local, arguments)
    if library == "timm":
        return build_timm(local, arguments)
    if library == "torchvision":
        return build_torchvision(local, arguments)
    if library == "hf":
        transformers = import_library("transformers", "pip install 'attar[hf]'")
        name, arguments = configured(name, arguments)
        return call(build_huggingface, name, transformers, name.removeprefix("hf:"), arguments)
    return call(function_named(name, LIBRARIES), name, **arguments)


def split_name(name: str) -> tuple[str, str]:
    """`timm:resnet18` -> (`timm`, `resnet18`); a name without a colon is attar's."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a network must be a word such as 'resnet20', not {name!r}")
    library, colon, local = name.partition(":")
    if not colon:
        return "attar", name
    if not library or not local:
        raise ValueError(
            f"{name!r} names no network: write resnet20, timm:NAME, torchvision:NAME, hf:TYPE or package.module:function"
        )
    return library, local


def build_own(name: str, arguments: dict[str, Any]) -> nn.Module:
    """One of attar's own networks."""
    if name not in BUILDERS:
        raise ValueError(
            f"there is no network {name!r}{closest(name, BUILDERS)}; attar has {', '.join(builders())}; those of others are "
            f"named with their library: timm:{name}, torchvision:{name}, hf:TYPE, package.module:function"
        )
    builder = BUILDERS[name]
    known = list(inspect.signature(builder).parameters)
    for argument in arguments:
        if argument not in known:
            hint = closest(argument, known)
            raise ValueError(f"{name} has no argument {argument!r}{hint}; it takes {', '.join(known)}")
    return builder(**arguments)


def build_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A network of timm by its name there; freshly initialised unless `pretrained=True` is asked for."""
    timm = import_library("timm", "pip install 'attar[timm]'")
    if not timm.is_model(name):
        raise ValueError(f"timm has no network {name!r}{closest(name.split('.')[0], timm.list_models())}")
    renamed = rename(arguments, {"classes": "num_classes", "in_channels": "in_chans"})
    return call(timm.create_model, f"timm:{name}", name, **renamed)


def build_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A classifier of torchvision by its name there; inputs have 3 channels."""
    import_library("torchvision", FITTING_TORCHVISION)
    models = import_module("torchvision.models")
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}{closest(name, models.list_models(module=models))}")
    renamed = rename(arguments, {"classes": "num_classes"})
    channels = renamed.pop("in_channels", 3)
    if channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, not {channels}; timm:{name} may take any")
    return call(models.get_model, f"torchvision:{name}", name, **renamed)


def call(builder: Callable[..., Any], name: str, *positional: Any, **arguments: Any) -> nn.Module:
    """Call somebody else's builder; what it finds wrong with the arguments becomes a ValueError that names it."""
    try:
        network = builder(*positional, **arguments)
    except (TypeError, ValueError, AssertionError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be built with {arguments!s:.300}: {error}") from error
    except ImportError as error:  # libraries import their parts when these are asked for
        raise ValueError(unimportable(name, error, "install what it needs")) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def import_library(name: str, remedy: str) -> ModuleType:
    """Import an optional library; raises ValueError that says how to get it."""
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        raise ValueError(unimportable(name, error, remedy)) from error


def unimportable(name: str, error: Exception, remedy: str) -> str:
    """Why a library or a part of it cannot be imported, and the way out."""
    cause = error.__cause__ or error  # transformers tells only that
    if "torchvision::" in str(cause):  # beside a torch that it was not built for; timm and transformers import it too
        remedy = FITTING_TORCHVISION
    return f"{name} cannot be imported ({cause}); {remedy}"
