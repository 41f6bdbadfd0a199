"""Gradients from a few batches, for the criteria that look at the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge

from attar.models import SafeStridedConvolutions, in_mode
from attar.prune.importance import Context

Batch = TypeVar("Batch")


def collect_gradients(
    module: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], torch.Tensor],
    seed: int = 0,
    merge: Callable[[list[torch.Tensor]], None] = lambda gradients: None,
) -> Context:
    """Mean gradients, and mean squared gradients, of the loss over the batches.

    The module is looked at in eval mode, so that dropout is off and running statistics stay; its mode and its
    parameters' `grad` and `requires_grad` are as before afterwards. Frozen parameters have gradients too: whether a unit
    can go does not hang on whether it is trained. The square is taken of each batch's gradient: batches of one sample
    give the diagonal of the empirical Fisher matrix exactly, larger ones an estimate that shrinks with the batch size
    but ranks much alike. Both are float32 at least, whatever the precision of the network.

    Args:
        batches: anything that `loss` understands; two or three hundred samples are plenty.
        loss: (module, batch) -> a scalar.
        seed: handed on in the context.
        merge: changes a batch's gradients in place, e.g. to their mean over processes that share the batch.

    Raises:
        ValueError: no batch, or a loss that is not a finite scalar.
    """
    parameters = {
        name: p
        for name, p in module.named_parameters(remove_duplicate=False)
        if p.requires_grad or (p.is_floating_point() and not p.is_inference())
    }
    unique = list({id(p): p for p in parameters.values()}.values())
    sums = {id(p): torch.zeros_like(p, dtype=_wide(p)) for p in unique}
    squares = {id(p): torch.zeros_like(p, dtype=_wide(p)) for p in unique}
    count = 0
    with in_mode(module, False), SafeStridedConvolutions(), _thawed(unique) as thawed:
        for batch in batches:
            count += 1
            value = _value(module, batch, loss, thawed)
            if value.dim() or not torch.isfinite(value):
                raise ValueError(f"the loss of batch {count} is {value.detach()!r}: gradients need a finite scalar")
            differentiated = [parameter for parameter in unique if parameter.requires_grad]
            edges = [get_gradient_edge(parameter) for parameter in differentiated]
            found = torch.autograd.grad([get_gradient_edge(value)], edges, allow_unused=True)
            gradients = [None if gradient is None else gradient.to(_wide(gradient)) for gradient in found]
            merge([gradient for gradient in gradients if gradient is not None])
            for parameter, gradient in zip(differentiated, gradients):
                if gradient is not None:
                    sums[id(parameter)] += gradient
                    squares[id(parameter)] += gradient.square()
    if not count:
        raise ValueError("gradients need at least one batch; none was given")
    return Context(
        {name: sums[id(p)] / count for name, p in parameters.items()},
        {name: squares[id(p)] / count for name, p in parameters.items()},
        seed,
    )


@contextmanager
def _thawed(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """With gradients of frozen parameters too, which are yielded; they are frozen again after."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield frozen
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _value(
    module: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], torch.Tensor], thawed: list[nn.Parameter]
) -> torch.Tensor:
    """The loss of a batch; parameters that the network itself writes to, such as centres, are frozen again for that."""
    try:
        return loss(module, batch)
    except RuntimeError:
        if not thawed:
            raise
        before = [parameter._version for parameter in thawed]
        for parameter in thawed:
            parameter.requires_grad_(False)
        with torch.no_grad():
            loss(module, batch)
        kept = [parameter._version == version for parameter, version in zip(thawed, before)]
        if all(kept):
            raise
        for parameter, keeps in zip(thawed, kept):
            parameter.requires_grad_(keeps)
        return loss(module, batch)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    """The type to sum in: small addends vanish in sums of half precision, and squares underflow."""
    return torch.promote_types(tensor.dtype, torch.float32)
