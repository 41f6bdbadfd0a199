"""Building what a file asks for, within bounds: only networks that may be built, and never more than was bargained for.

A file can name any of thousands of networks with any arguments. Nothing is fetched, no code is run that the file names,
and memory is refused before it is taken.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from attar.artifact.errors import ArtifactError
from attar.models import BuilderSpec, build

LIBRARIES = ("attar", "timm", "torchvision")
ABOUT_WEIGHTS = frozenset(
    ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights", "progress")
)
"""Arguments that make a library fetch or read weights; an artifact brings its own."""
LEAST_BYTES = 1 << 30
"""What building may take, however small the weights file is."""
MOST_PARTS = 20_000
"""Parameters and modules that a network may have."""
MOST_OPERATIONS = 200_000
"""Tensor operations that building may take."""
LARGEST_ARGUMENT = 1 << 20
"""No width, depth, class count or image size beyond this is taken for meant."""

Builder = Callable[..., nn.Module]


@contextmanager
def within_memory(most_bytes: int) -> Iterator[None]:
    """Lets the process take at most so much more memory, so that what a file makes a runtime do fails instead of the machine.

    By the system's limit on address space; where there is none (off Linux), nothing is limited.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + most_bytes
        lower = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(lower), hard))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def portable(spec: BuilderSpec) -> BuilderSpec:
    """The builder without arguments that are about where weights come from."""
    return BuilderSpec(spec.name, {key: value for key, value in spec.arguments.items() if key not in ABOUT_WEIGHTS})


def build_within(
    spec: BuilderSpec | None, weights_bytes: int, builder: Builder | None, allow: Collection[str]
) -> nn.Module:
    """Build the uncut network of an artifact.

    Args:
        spec: what the file asks for.
        weights_bytes: size of the weights file; the uncut network may be larger by far, but not without bounds.
        builder: the user's own function, called with the file's arguments in place of what the file names.
        allow: names of builders that the user lets the file call.

    Raises:
        ArtifactError: not permitted, too large, or not to be built.
    """
    trusted = builder is not None or (spec is not None and spec.name in allow)
    if builder is None:
        builder = partial(build, check_permitted(spec, allow).name)
    arguments = dict(spec.arguments) if spec is not None else {}
    bounds = nullcontext() if trusted else bounded(max(LEAST_BYTES, 20 * weights_bytes))
    with bounds, torch.random.fork_rng(devices=[]):
        try:
            network = builder(**arguments)
        except ArtifactError:
            raise
        except Exception as error:  # whatever a library says to arguments that somebody else wrote
            raise ArtifactError(f"the network that arch.json asks for cannot be built: {error}") from error
    if not isinstance(network, nn.Module):
        raise ArtifactError(f"the builder returned {type(network).__name__}, not a torch.nn.Module")
    return network


def check_permitted(spec: BuilderSpec | None, allow: Collection[str]) -> BuilderSpec:
    """Return the builder if it is attar's, timm's or torchvision's, or allowed by name; else raise ArtifactError."""
    if spec is None:
        raise ArtifactError(
            "only its owner's code can make this network: pass builder=, a function that returns it uncut"
        )
    if isinstance(allow, str):
        raise TypeError("allow is a list of names, such as ['package.module:function']")
    if spec.name in allow:
        return spec
    try:
        library = spec.library
    except ValueError as error:
        raise ArtifactError(f"arch.json: {error}") from error
    if library not in LIBRARIES:
        raise ArtifactError(
            f"the file asks to run {spec.name!r}, which is code from elsewhere; nothing was run. "
            f"If you trust it, allow it by name: --allow {spec.name}; in Python allow=[{spec.name!r}], or your own function "
            "as builder="
        )
    if about := sorted(ABOUT_WEIGHTS & set(spec.arguments)):
        raise ArtifactError(f"the file asks {spec.name} to get weights from elsewhere ({', '.join(about)}); not done")
    if largest(spec.arguments) > LARGEST_ARGUMENT:
        raise ArtifactError(f"the file asks {spec.name} for a number above {LARGEST_ARGUMENT:,}; not done")
    return spec


def largest(value: Any) -> float:
    """The largest number, regardless of sign, anywhere in plain data; 0 if there is none."""
    if isinstance(value, Mapping):
        return max(map(largest, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(largest, value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


@contextmanager
def bounded(most_bytes: int) -> Iterator[None]:
    """While a network is built: bounds on the memory of new tensors, and on the number of parameters and modules."""
    parts = 0

    def count(*_: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise ArtifactError(f"the network that arch.json asks for has more than {MOST_PARTS:,} parts")

    hooks = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
    try:
        with MemoryBound(most_bytes):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class MemoryBound(TorchDispatchMode):
    """Refuses operations that make tensors, before they do, once all made so far come to more than `most_bytes`."""

    SIZED = frozenset(
        f"aten::{name}"
        for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "empty_strided", "new_empty")
    )
    COUNTED = frozenset(f"aten::{name}" for name in ("arange", "linspace", "randperm", "eye", "logspace"))

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        self.taken = 0
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        if self.operations > MOST_OPERATIONS:
            raise ArtifactError(
                f"the network that arch.json asks for takes more than {MOST_OPERATIONS:,} steps to build"
            )
        self.taken += self.wanted(func, args, kwargs)
        if self.taken > self.most_bytes:
            raise ArtifactError(
                f"the network that arch.json asks for takes more than {self.most_bytes >> 20:,} MB to build, "
                f"far more than its weights file"
            )
        return func(*args, **kwargs)

    def wanted(self, func: Any, args: Any, kwargs: Any) -> int:
        """Bytes that the operation is about to take, as far as its arguments tell."""
        name = func._schema.name
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        if name in self.SIZED:
            size = next((a for a in args if isinstance(a, list | tuple)), ())
            return prod(size) * dtype.itemsize
        if name in self.COUNTED:
            return max((abs(int(a)) for a in args if isinstance(a, int | float)), default=0) * dtype.itemsize
        return 0
