"""Batch norm over the batch of all ranks: what one process would compute, so that the number of ranks changes no result."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from attar.train.fast_norm import batch_norm
from attar.train.ranks import Ranks

_aten = torch.ops.aten.batch_norm
_PLAIN = frozenset((torch.batch_norm, _aten, _aten.default))
"""Below `F.batch_norm`, with another order of arguments; captured graphs call aten's."""


class RankNorm(TorchFunctionMode):
    """Within this context every batch norm that trains takes its statistics from all ranks, whatever module or graph calls it."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func in _PLAIN:
            return self._plain(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _plain(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        """The arguments of `torch.batch_norm`."""
        return self._batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """The arguments of `F.batch_norm`."""
        arguments = input, running_mean, running_var, weight, bias
        if not training:
            return F.batch_norm(*arguments, training, momentum, eps)
        if input.device.type == "cpu":
            return batch_norm(*arguments, training, momentum, eps, self.ranks)
        group = torch.distributed.group.WORLD
        merged: Tensor = SyncBatchNorm.apply(
            input, weight, bias, running_mean, running_var, eps, momentum, group, self.ranks.count
        )
        return merged
