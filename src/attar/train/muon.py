"""Muon: weights that mix channels take steps whose singular values are all alike.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon.
`torch.optim.Muon` takes matrices only, no convolutions, and computes in bfloat16, which many CPUs have not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SHARE = 0.2
"""Of the learning rate, for steps of singular values near 1. Where a norm follows, it only sets how large weights become."""
STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
"""Of Newton and Schulz's iteration, as Jordan et al. found them: singular values end between 0.7 and 1.2."""
AVERAGE = "gradient_average"
"""A matrix's moment. Not SGD's `momentum_buffer`, which is a sum and ten times as large."""


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum whose steps are orthogonalised where a weight mixes channels.

    These are the weights of linear layers and of convolutions that are not depthwise, as matrices of outputs by all the rest
    (in groups, one matrix for each group); the last layer, norms, biases and depthwise kernels take SGD's own steps. Learning
    rate and weight decay are those of SGD: a matrix of singular values that are all alike moves by SHARE times the learning
    rate, times sqrt(outputs / inputs) where it has more outputs, and shrinks by as much a step as it would under SGD in the
    long run, learning rate * decay / (1 - momentum).
    """

    def __init__(
        self, model: nn.Module, learning_rate: float, momentum: float, weight_decay: float, fused: bool | None
    ) -> None:
        self._groups, self._momentum = mixing(model), momentum
        rest = [p for p in model.parameters() if p not in self._groups]
        # without momentum, SGD's decay is a decoupled one, and its step the gradient that it is given
        own = {"momentum": 0.0, "nesterov": False, "weight_decay": weight_decay / (1 - momentum)}
        parts: list[dict[str, Any]] = [{"params": rest}, {"params": list(self._groups), **own}]
        super().__init__(
            [part for part in parts if part["params"]],
            learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay,
            fused=fused,
        )

    def moment(self, parameter: Tensor) -> str:
        """Key of what is kept for a parameter."""
        return AVERAGE if parameter in self._groups else "momentum_buffer"

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As any optimiser's; the gradients of matrices are the steps they took afterwards."""
        for weight, groups in self._groups.items():
            if weight.grad is None:
                continue
            state = self.state[weight]
            average = state.setdefault(AVERAGE, torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - self._momentum)
            ahead = weight.grad.lerp(average, self._momentum)
            rows = weight.shape[0] // groups
            matrices = ahead.reshape(groups, rows, -1)  # (groups, outputs, inputs)
            scale = SHARE * max(1.0, rows / matrices.shape[2]) ** 0.5
            weight.grad.copy_(orthogonalised(matrices).reshape(ahead.shape)).mul_(scale)
        return super().step(closure)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(..., rows, columns) with their singular values brought near 1, 0.7 to 1.2; those of a zero matrix stay 0."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def mixing(model: nn.Module) -> dict[nn.Parameter, int]:
    """The weights that mix channels, with the groups of each, in the network's order; its last layer is none of them."""
    found: dict[nn.Parameter, int] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or not weight.requires_grad or weight in found:
            continue
        if isinstance(module, nn.Linear):
            found[weight] = 1
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.in_channels > module.groups:
            found[weight] = module.groups
    return dict(list(found.items())[:-1])
