"""Training a network for int8: what it computes with is rounded as int8 will round it, gradients pass straight through.

Weights of convolutions and linear layers are rounded per output channel (7 bits, symmetric), their inputs per tensor (uint8, by
the batch's least and greatest value, zero among them): what ONNX Runtime computes with. A batch norm that export folds into a
convolution scales its channels, and rounding per channel does not mind (Jacob et al. 2018, arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_MOST = 64
"""The greatest weight: 255 times it, twice, fits into the 16 bits that some processors add in."""
_TINY = 1e-12


def rounded_weight(weight: Tensor) -> Tensor:
    """The weight as the int8 file has it, per output channel, in its own dtype; zeros stay zeros."""
    most = weight.detach().abs().amax(dim=tuple(range(1, weight.dim()))).float()
    scale = (most / _MOST).clamp(min=_TINY)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -_MOST, _MOST).to(weight.dtype)


def rounded_input(x: Tensor) -> Tensor:
    """The activations as uint8 with one scale would have them, in their own dtype."""
    low, high = x.detach().float().aminmax()
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=_TINY)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


@contextmanager
def fake_quantised(model: nn.Module) -> Iterator[int]:
    """Let the model compute as in int8 for as long as the context lasts; yields how many layers can.

    Its parameters, their names and the state dict stay what they are.
    """
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(_round).remove)
            hooks.callback(layer.register_forward_hook(_restore, always_call=True).remove)
        yield len(layers)


def _round(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    # an attribute of the instance is found before the parameter of that name, which stays where it is
    vars(module)["weight"] = rounded_weight(module._parameters["weight"])  # type: ignore[arg-type]
    return (rounded_input(inputs[0]), *inputs[1:])


def _restore(module: nn.Module, inputs: Any, output: Any) -> None:
    vars(module).pop("weight", None)
