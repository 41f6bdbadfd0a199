"""Batch norm at full speed for any number of channels: the CPU kernel of torch, given rows it likes.

In channels_last a batch is M = N*H*W rows of C numbers. torch's kernel works row by row with vectors of 16 to 32 lanes;
rows of 9 or 19 channels leave it to scalar code, and a pruned network trains slower than the one it came from. Here K
rows are seen as one row of K*C "channels" (the same memory), the same kernel computes the statistics of these, and the
K partial means and variances of a channel are merged exactly (Chan, Golub, LeVeque 1979). Measured in
benchmarks/pruned_step.py.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attar.train.forwards import computes_as, forwards_set, plain_on_cpu
from attar.train.ranks import ALONE, Ranks

_LANES = 32  # numbers of bfloat16 in the widest vector register of any CPU
_SMALL_BATCH = 8192  # rows below which the merge costs what the vectors save (measured on two cores)
_WIDE = 128  # channels above which torch's scalar rest of a row is small
_ROW = 512  # aimed length of a folded row: long enough for vectors, short enough for the caches and the merge


@functools.lru_cache(maxsize=4096)
def fold_factor(rows: int, channels: int) -> int:
    """How many of `rows` rows of `channels` numbers to see as one: a divisor of `rows`, 1 where folding cannot help."""
    best, best_cost = 1, float("inf")
    for fold in range(1, min(rows, max(1, 2 * _ROW // channels)) + 1):
        if rows % fold == 0:
            length = fold * channels
            # scalar tail per number, and the distance from the aimed length
            cost = (length % _LANES) / length + abs(length - _ROW) / (8 * _ROW)
            if cost < best_cost:
                best, best_cost = fold, cost
    return best


def _folded(x: Tensor, fold: int) -> Tensor:
    """View channels_last (N, C, H, W) as (M/fold, fold*C, 1, 1); for a fold of 1 a batch of any layout, as it is."""
    if fold == 1:
        return x
    length = fold * x.shape[1]
    return x.as_strided((x.numel() // length, length, 1, 1), (length, 1, 1, 1))


def _unfolded(vectors: Tensor, fold: int) -> Tensor:
    """Repeat each of (n, C) vectors `fold` times: (n, fold*C), as long as folded rows."""
    if fold == 1:
        return vectors
    count, channels = vectors.shape
    # not reshape: for one channel it would be a view of stride 0, which the kernels do not expect
    return vectors.unsqueeze(1).expand(count, fold, channels).contiguous().view(count, fold * channels)


@functools.lru_cache(maxsize=64)
def _neutral(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros, ones (length,) and nothing; never written to."""
    return torch.zeros(length, dtype=dtype), torch.ones(length, dtype=dtype), torch.empty(0, dtype=dtype)


def _moments(rows: Tensor, fold: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) over folded rows."""
    # the kernel answers in the type of the running statistics it is given; with momentum 0 it leaves them alone
    unused = torch.zeros(rows.shape[1], dtype=dtype)
    means, variances = torch.batch_norm_update_stats(rows, unused, unused, 0.0)
    return (means, variances) if fold == 1 else _pooled(means.view(fold, -1), variances.view(fold, -1))


def _pooled(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of parts of equal size, from theirs (parts, C)."""
    between, mean = torch.var_mean(means, 0, correction=0)
    return mean, between.add_(variances.mean(0))


def _scale_shift(rows: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """Write rows * scale + shift into `out`, computed in the type of scale and rounded once; `out` may be `rows`."""
    zeros, ones, empty = _neutral(rows.shape[1], scale.dtype)
    torch.native_batch_norm(rows, scale, shift, zeros, ones, False, 0.0, 0.0, out=(out, empty, empty))


class _FoldedNorm(torch.autograd.Function):
    """Normalise with given statistics; `batch` says that they are x's own, so that gradients flow through them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        fold: int,
        batch: bool,
        ranks: Ranks,
        count: int,
    ) -> Tensor:
        scale = inverse if weight is None else inverse * weight
        shift = torch.addcmul(_neutral(mean.numel(), mean.dtype)[0] if bias is None else bias, mean, scale, value=-1)
        long = _unfolded(torch.stack((scale, shift, mean)), fold)
        output = torch.empty_like(x)  # not a view, so that an in-place ReLU may follow
        _scale_shift(_folded(x, fold), long[0], long[1], _folded(output, fold))
        ctx.save_for_backward(x, scale, mean, inverse, long)
        ctx.fold, ctx.batch, ctx.ranks, ctx.count = fold, batch, ranks, count
        ctx.parameter_types = (None if weight is None else weight.dtype, None if bias is None else bias.dtype)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse, long = ctx.saved_tensors
        fold, count = ctx.fold, ctx.count
        grad = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
        rows, x_rows = _folded(grad, fold), _folded(x, fold)
        _, ones, _ = _neutral(rows.shape[1], mean.dtype)
        # eval mode and unit variance: sums of grad * (x - mean) and of grad, and nothing else
        _, dot, total = torch.ops.aten.native_batch_norm_backward(
            rows, x_rows, ones, long[2], ones, None, None, False, 0.0, [False, True, True]
        )
        if fold > 1:
            dot, total = dot.view(fold, -1).sum(0), total.view(fold, -1).sum(0)
        d_scale = dot * inverse
        weight_type, bias_type = ctx.parameter_types
        d_weight = d_scale.to(weight_type) if ctx.needs_input_grad[1] else None
        d_bias = total.to(bias_type) if ctx.needs_input_grad[2] else None
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.empty_like(grad)
            if ctx.batch:
                if ctx.ranks.count > 1:  # d_x depends on the sums over the whole batch
                    sums = ctx.ranks.total(torch.stack((d_scale, total)))
                    d_scale, total = sums[0], sums[1]
                # d_x = scale * (grad + slope * x + shift); the shift is that of the rounded slope, so that
                # the mean of d_x is zero, as it must be
                slope = (d_scale * inverse).div_(-float(count)).to(x.dtype)
                shift = torch.addcmul(total, slope, mean, value=count).mul_(scale).div_(-float(count))
                out = _folded(d_x, fold)
                slopes = _unfolded(slope.unsqueeze(0), fold).view(1, -1, *[1] * (rows.dim() - 2))
                torch.addcmul(rows, x_rows, slopes, out=out)
                _scale_shift(out, long[0], _unfolded(shift.unsqueeze(0), fold)[0], out)
            else:
                zeros, _, _ = _neutral(rows.shape[1], mean.dtype)
                _scale_shift(rows, long[0], zeros, _folded(d_x, fold))
        return d_x, d_weight, d_bias, None, None, None, None, None, None


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    ranks: Ranks = ALONE,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of a CPU batch (N, C, ...), by folded rows where it is channels_last (N, C, H, W).

    Same values up to rounding: statistics and sums are kept in float32 (float64 for float64 input). Deterministic for a
    fixed number of threads. The gradient cannot be differentiated again. Of several ranks, each brings its share of the
    batch, and the statistics are those of the whole.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    fold = fold_factor(count, channels) if _foldable(x) else 1
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        if training:
            mean, variance = _moments(_folded(x, fold), fold, dtype)
            if ranks.count > 1:
                mean, variance, count = _merged(mean, variance, count, ranks)
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        else:
            assert running_mean is not None and running_var is not None
            mean, variance = running_mean.to(dtype), running_var.to(dtype)
        inverse = (variance + eps).rsqrt_()
    output: Tensor = _FoldedNorm.apply(x, weight, bias, mean, inverse, fold, training, ranks, count)
    return output


def _merged(mean: Tensor, variance: Tensor, count: int, ranks: Ranks) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and count of the batch of all ranks from those of their shares (Chan, Golub, LeVeque)."""
    channels = len(mean)
    shares = ranks.gather(torch.cat((mean, variance, mean.new_full((1,), count))))
    means, variances, counts = shares[:, :channels], shares[:, channels:-1], shares[:, -1].tolist()
    whole = int(sum(counts))
    if min(counts) == max(counts):
        return *_pooled(means, variances), whole
    weights = shares[:, -1:] / whole
    mean = (means * weights).sum(0)
    return mean, ((variances + (means - mean).square()) * weights).sum(0), whole


def _foldable(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _worthwhile(module: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether folding is both possible and faster than torch's own kernel (channels by 16 it handles well)."""
    if not plain_on_cpu(x) or x.dim() != 4:
        return False
    channels = x.shape[1]
    if channels % 16 == 0 or channels >= _WIDE or x.numel() < _SMALL_BATCH * channels:
        return False
    # in eval mode only the gradient is slow
    differentiates = module.training or (torch.is_grad_enabled() and x.requires_grad)
    supported = x.dtype in (torch.bfloat16, torch.float32, torch.float64)
    return differentiates and supported and _foldable(x)


def _forward(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What `nn.BatchNorm2d.forward` does, with `batch_norm` above where it is faster."""
    if not _worthwhile(self, x):
        return nn.BatchNorm2d.forward(self, x)
    momentum = 0.0 if self.momentum is None else self.momentum
    tracks = self.training and self.track_running_stats
    if tracks and self.num_batches_tracked is not None:
        self.num_batches_tracked.add_(1)
        if self.momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
    uses = tracks or not self.training
    mean, variance = (self.running_mean, self.running_var) if uses else (None, None)
    of_batch = self.training or mean is None
    return batch_norm(x, mean, variance, self.weight, self.bias, of_batch, momentum, self.eps)


def fast_batch_norm(model: nn.Module) -> AbstractContextManager[int]:
    """Let the BatchNorm2d modules of `model` use `batch_norm` above where it is faster; yields how many can.

    torch.export and torch.compile see torch's own operation even inside. Modules that bring a forward of their own
    (subclasses of BatchNorm2d that change it, or one set on the module) are left alone.
    Which path a call takes depends on shape, layout, type and mode only, never on timing. Contexts nest.
    """
    return forwards_set([module for module in model.modules() if computes_as(module, nn.BatchNorm2d)], _forward)
