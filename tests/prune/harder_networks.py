"""Still more small networks: heads that share keys, weights of many uses, places used as numbers, the batch written into code."""

from typing import Any

import torch
import torch.nn.functional as F
from adversarial_networks import half, net, parameter, plain, tokens
from awkward_networks import Net, conv
from torch import nn


def pixels(t: torch.Tensor) -> torch.Tensor:
    return t.transpose(1, 2).unflatten(2, (8, 8))


def behind(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two layers, so that something can be cut whatever stays before them."""
    return m.after(F.relu(m.wide(x)))


def tied_and_transposed(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.conv_transpose2d(F.relu(m.a(x)), m.a.weight)


def shuffled_by_index(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(m.grouped(x)[:, torch.arange(16).view(4, 4).t().reshape(-1)])


def multi_query(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    t = tokens(x)
    q = m.q(t).unflatten(2, (4, 4)).transpose(1, 2)
    k, v = m.kv(t).unflatten(2, (2, 1, 4)).permute(2, 0, 3, 1, 4)
    return pixels(m.out(((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)))


def shared_heads(m: Any, x: torch.Tensor, spread: Any, **options: bool) -> torch.Tensor:
    t = tokens(x)
    q, k, v = (part.unflatten(2, (-1, 6)).transpose(1, 2) for part in (m.q(t), m.k(t), m.v(t)))
    y = F.scaled_dot_product_attention(q, spread(k), spread(v), **options)
    return pixels(m.out(y.transpose(1, 2).flatten(2)))


def shared_heads_expanded(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return shared_heads(m, x, lambda t: t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(t.shape[0], 4, 64, 6))


def shared_heads_by_option(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return shared_heads(m, x, lambda t: t, enable_gqa=True)


def normed_queries(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    q, k, v = (tokens(part)[:, None] for part in (m.q(x), m.k(x), x))
    return pixels(m.out(F.scaled_dot_product_attention(q, k, v)[:, 0]))


def joined_biases(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    qkv = F.linear(tokens(x), m.qkv.weight, torch.cat([m.q, torch.zeros(16), m.v]))
    q, k, v = qkv.unflatten(2, (3, m.heads, -1)).permute(2, 0, 3, 1, 4)
    return pixels(m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def uneven_use(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = m.grouped(x)
    return m.b(y[:, :5]) + m.c(y[:, 11:21])


def pixels_of_nine(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(F.pixel_shuffle(m.up(x), 3))


def windows_and_back(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.after(F.fold(F.unfold(m.a(x), 2, stride=2) * 2, (8, 8), 2, stride=2))


def kernels_by_place(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    kernels = m.kernels(x).view(n, 4, 1, 9, h * w)
    return (F.unfold(x, 3, padding=1).view(n, 4, c // 4, 9, h * w) * kernels).sum(3).view(n, c, h, w)


def kernel_for_a_sample(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    n = x.shape[0]
    kernels = torch.einsum("ne,eoihw->noihw", m.gate(x.mean((2, 3))).softmax(-1), m.kernels)
    y = F.conv2d(x.reshape(1, -1, 8, 8), kernels.reshape(n * 16, 16, 3, 3), padding=1, groups=n)
    return behind(m, y.view(n, 16, 8, 8))


def place_of_the_largest(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return behind(m, x) * (m.last(x).argmax(1, keepdim=True) + 1)


def place_beside_the_largest(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    largest, place = m.last(x).max(1, keepdim=True)
    return behind(m, x) * (largest + place)


def written_with_a_step(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, ::2] = m.last(x)[:, ::2]
    y[:, 1::2] = x[:, 1::2]
    return behind(m, y)


def filled_by_hand(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(len(x), 20, 8, 8, dtype=x.dtype)
    y[:, 2:18] = m.last(x)
    return y[:, 1:17]


def low_rank_update(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return pixels(F.linear(tokens(x), m.base.weight + m.up @ m.down, m.base.bias))


def experts(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    t = tokens(x)
    hidden = F.relu(torch.einsum("nld,edh->nleh", t, m.first))
    return pixels(torch.einsum("nleh,ehd,nle->nld", hidden, m.second, m.gate(t).softmax(-1)))


def weight_in_two_parts(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    weight, bias = m.last.weight, m.last.bias
    parts = [F.conv2d(x, w, b, padding=1) for w, b in zip(weight.split(8), bias.split(8))]
    return torch.cat([parts[0], parts[1] * 2], 1)


def larger_and_smaller(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b = m.wide(x).chunk(2, 1)
    return torch.max(a, b) - torch.min(x, b)


def kernels_of_two_tensors(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = F.relu(F.conv2d(x, m.first + m.second, padding=1))
    return F.conv_transpose2d(y, m.third * m.fourth, padding=1)


def figures_over_units(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = m.wide(x)
    every, count = (y > -2).all(1, keepdim=True), (y >= 0).sum(1, keepdim=True)
    return m.after(F.relu(y - y.nanmean(1, keepdim=True) + every * count * y.norm(-float("inf"), 1, keepdim=True)))


def shares_in_rows(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A softmax over the rows that units stand in: those of one place in all rows are one."""
    return m.after(m.wide(x).unflatten(1, (4, 6)).softmax(1).flatten(1, 2))


def norm_in_rows(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = m.wide(x).unflatten(1, (4, 6)).movedim(1, -1)
    return m.after(F.layer_norm(y, (4,)).movedim(-1, 1).flatten(1, 2))


def convolved_by_name(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """torch's convolution of any kind, with groups, there and back."""
    y = torch.convolution(x, m.first, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 4)
    return torch.convolution(F.relu(y), m.second, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 2)


def half_shuffled(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, 1)
    return F.channel_shuffle(torch.cat([a, m.out(m.deep(m.into(b)))], 1), 2)


def narrow_conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def tail() -> dict[str, Any]:
    return {"wide": lambda: narrow_conv(16, 24), "after": lambda: narrow_conv(24, 16)}


def heads() -> dict[str, Any]:
    return {
        "q": lambda: nn.Linear(16, 24),
        "k": lambda: nn.Linear(16, 12),
        "v": lambda: nn.Linear(16, 12),
        "out": lambda: nn.Linear(24, 16),
    }


HARDER: dict[str, type[Net]] = {
    "tied_and_transposed": net(tied_and_transposed, a=lambda: narrow_conv(16, 16)),
    "shuffled_by_index": net(shuffled_by_index, grouped=lambda: conv(16, 16, groups=4), last=plain),
    "multi_query": net(
        multi_query, q=lambda: nn.Linear(16, 16), kv=lambda: nn.Linear(16, 8), out=lambda: nn.Linear(16, 16)
    ),
    "shared_heads_expanded": net(shared_heads_expanded, **heads()),
    "shared_heads_by_option": net(shared_heads_by_option, **heads()),
    "normed_queries": net(
        normed_queries,
        q=lambda: nn.Sequential(narrow_conv(16, 8), nn.BatchNorm2d(8)),
        k=half,
        out=lambda: nn.Linear(16, 16),
    ),
    "joined_biases": net(
        joined_biases,
        qkv=lambda: nn.Linear(16, 48, bias=False),
        q=lambda: parameter(16),
        v=lambda: parameter(16),
        heads=lambda: 2,
        out=lambda: nn.Linear(16, 16),
    ),
    "uneven_use": net(
        uneven_use,
        grouped=lambda: conv(16, 24, groups=4),
        b=lambda: narrow_conv(5, 16),
        c=lambda: narrow_conv(10, 16),
    ),
    "many_of_each": net(
        lambda m, x, image: m.norm(m.deep(x)),
        width=32,
        deep=lambda: nn.ConvTranspose2d(16, 32, 3, groups=16),
        norm=lambda: nn.BatchNorm2d(32),
    ),
    "pixels_of_nine": net(pixels_of_nine, up=lambda: narrow_conv(16, 36), last=lambda: narrow_conv(4, 16)),
    "windows_and_back": net(windows_and_back, a=lambda: narrow_conv(16, 12), after=lambda: narrow_conv(12, 16)),
    "kernels_by_place": net(kernels_by_place, kernels=lambda: narrow_conv(16, 36)),
    "kernel_for_a_sample": net(
        kernel_for_a_sample, gate=lambda: nn.Linear(16, 3), kernels=lambda: parameter(3, 16, 16, 3, 3), **tail()
    ),
    "place_of_the_largest": net(place_of_the_largest, last=plain, **tail()),
    "place_beside_the_largest": net(place_beside_the_largest, last=plain, **tail()),
    "written_with_a_step": net(written_with_a_step, last=plain, **tail()),
    "filled_by_hand": net(filled_by_hand, last=plain),
    "low_rank_update": net(
        low_rank_update, base=lambda: nn.Linear(16, 16), up=lambda: parameter(16, 4), down=lambda: parameter(4, 16)
    ),
    "experts": net(
        experts,
        gate=lambda: nn.Linear(16, 3),
        first=lambda: parameter(3, 16, 20),
        second=lambda: parameter(3, 20, 16),
    ),
    "weight_in_two_parts": net(weight_in_two_parts, last=plain),
    "larger_and_smaller": net(larger_and_smaller, wide=lambda: narrow_conv(16, 32)),
    "figures_over_units": net(figures_over_units, **tail()),
    "shares_in_rows": net(shares_in_rows, **tail()),
    "norm_in_rows": net(norm_in_rows, **tail()),
    "convolved_by_name": net(
        convolved_by_name, first=lambda: parameter(24, 4, 3, 3), second=lambda: parameter(24, 8, 3, 3)
    ),
    "half_shuffled": net(
        half_shuffled,
        into=lambda: conv(8, 8, kernel=1),
        deep=lambda: conv(8, 8, groups=8),
        out=lambda: narrow_conv(8, 8),
    ),
    "kernels_of_two_tensors": net(
        kernels_of_two_tensors, **dict.fromkeys(("first", "second", "third", "fourth"), lambda: parameter(16, 16, 3, 3))
    ),
}
