"""Muon: weights that mix channels take steps whose singular values are all alike.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon.
`torch.optim.Muon` takes matrices only, no convolutions, and computes in bfloat16, which many CPUs have not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        gradients = {weight: weight.grad for weight in self._groups if weight.grad is not None}
        if gradients:
            own = list(gradients.values())
            averages = [self._average(weight) for weight in gradients]
            torch._foreach_lerp_(averages, own, 1 - self._momentum)
            torch._foreach_lerp_(own, averages, self._momentum)
            inner = [_inputs_last(gradient) for gradient in own]
            groups = [self._groups[weight] for weight in gradients]
            ahead = [x.reshape(count, len(x) // count, -1) for x, count in zip(inner, groups)]
            for x, made in zip(inner, orthogonalised(ahead)):
                rows, columns = made.shape[1:]
                x.copy_(made.reshape(x.shape)).mul_(SHARE * max(1.0, rows / columns) ** 0.5)
        return super().step(closure)

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if AVERAGE not in state:
            state[AVERAGE] = torch.zeros_like(weight)
        return state[AVERAGE]


def _inputs_last(weight: Tensor) -> Tensor:
    """A view of a weight that lies one row after the other: the order of a matrix's columns changes nothing here."""
    return weight if weight.is_contiguous() else weight.movedim(1, -1)  # which channels_last has


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each (groups, rows, columns) with its singular values brought near 1, 0.7 to 1.2; those of zeros stay 0.

    The iteration x <- (a + b x x' + c (x x')^2) x multiplies x by polynomials of x x', all of which commute: it is done on the
    small squares x x' alone, those of one size together, and their product applied to x once.
    """
    wide = [x.mT if x.shape[1] > x.shape[2] else x for x in matrices]
    squares = [x @ x.mT for x in wide]
    by_size: dict[int, list[int]] = {}
    for place, square in enumerate(squares):
        by_size.setdefault(square.shape[1], []).append(place)
    made = list(matrices)
    for places in by_size.values():
        factors = _factors(torch.cat([squares[place] for place in places]))
        for place, factor in zip(places, factors.split([len(squares[place]) for place in places])):
            x = factor @ wide[place]
            made[place] = x.mT if wide[place] is not matrices[place] else x
    return made


def _factors(squares: Tensor) -> Tensor:
    """x x' (n, rows, rows) -> what x has to be multiplied by from the left."""
    a, b, c = COEFFICIENTS
    inverse = squares.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-14).reciprocal().view(-1, 1, 1)  # 1 / |x|^2
    squares = squares * inverse
    product = None
    for step in range(STEPS):
        factor = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step < STEPS - 1:
            squares = factor @ squares @ factor
    assert product is not None
    return product * inverse.sqrt()


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
