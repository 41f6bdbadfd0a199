"""A GPU for machines without one: tensors that say they are on the device `pretend` and compute on the CPU.

What no CPU test sees and breaks on a real GPU breaks here too: a CPU tensor that meets a GPU's, and, inside `capturing`, what
may not be done while a CUDA graph is recorded. It says nothing about speed, kernels or real CUDA streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
DEVICE = f"{NAME}:0"
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default}
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
"""A CUDA graph cannot hold these: the host would have to know the result."""
_capturing = False


class CaptureError(RuntimeError):
    """Something that cannot be recorded as a CUDA graph."""


class There(torch.Tensor):
    """A tensor on the device; `here` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=DEVICE,
        )
        made.here = here
        return made

    def __repr__(self) -> str:
        return f"There({self.here!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.data.__set__ and isinstance(args[1], There):
            args[0].here = args[1].here  # what `tensor.data = other` does not see
        if func == torch.Tensor.tolist:
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Makes new tensors on the device where that is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return args[0].device
    with Pretending():  # of inference tensors, calls arrive as they were made and not in their parts
        parts = func.decompose(*args, **kwargs)
    if parts is not NotImplemented:
        return parts
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    made_there = bool(there)
    if kwargs.get("device") is not None:
        made_there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": "cpu"}
    if there and func not in MOVES:
        for tensor in tensors:
            if not isinstance(tensor, There) and tensor.dim():
                raise RuntimeError(
                    f"{func}: a tensor on the CPU, of shape {tuple(tensor.shape)}, meets one on {DEVICE}"
                )
    if _capturing:
        _check_capture(func, tensors, there, made_there)
    out = func(*tree_map_only(There, _here, args), **tree_map_only(There, _here, kwargs))
    if func is aten._local_scalar_dense.default:
        return out
    known = {id(tensor.here): tensor for tensor in there} | {id(t): t for t in tensors if not isinstance(t, There)}
    if func is aten.copy_.default:
        return args[0]

    def wrapped(tensor: torch.Tensor) -> torch.Tensor:
        return known[id(tensor)] if id(tensor) in known else There(tensor) if made_there else tensor

    return tree_map_only(torch.Tensor, wrapped, out)


def _here(tensor: There) -> torch.Tensor:
    return tensor.here


def _check_capture(func: Any, tensors: list[torch.Tensor], there: list[There], made_there: bool) -> None:
    if func in WAITS and there:
        raise CaptureError(f"{func} waits for the device: not permitted when capturing")
    if func in MOVES and 0 < len(there) < len(tensors):
        raise CaptureError(f"{func} copies between host and device: not permitted when capturing")
    if func is aten._to_copy.default and bool(there) != made_there:
        raise CaptureError(f"{func} copies between host and device: not permitted when capturing")


@contextmanager
def capturing() -> Iterator[None]:
    """Inside, what may not be recorded as a CUDA graph raises CaptureError."""
    global _capturing
    _capturing = True
    try:
        yield
    finally:
        _capturing = False


_registered = False


def register() -> None:
    """Make the device known to torch, before the first backward pass of the process."""
    global _registered
    if not _registered:
        _setup_privateuseone_for_python_backend(NAME)
    _registered = True
