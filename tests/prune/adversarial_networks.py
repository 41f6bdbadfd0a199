"""More small networks, made to break engines that guess: in-place writes, tied weights, joint axes, weights made of others."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from awkward_networks import Net, conv
from torch import nn


def net(
    awkward: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor], width: int = 16, **layers: Callable[[], Any]
) -> type[Net]:
    """A network with these layers and this middle."""

    class Made(Net):
        def __init__(self) -> None:
            super().__init__(width)
            for name, layer in layers.items():
                setattr(self, name, layer())

        def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return awkward(self, x, image)

    return Made


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def written_in_place(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    x = m.last(x).clone()
    x[:, 4:8] = x[:, :4] * 2
    x[:, 12:].add_(1)
    return x


def relu_in_place(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = x.sub(0.5)
    y += x
    y.mul_(2)
    return m.last(F.relu_(y))


def image_on_top(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :3] + image, x[:, 3:]], 1)


def crossed_halves(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b = m.last(x).chunk(2, 1)
    return x + torch.cat([b, a], 1)


def every_second(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    x = m.last(x)
    return torch.cat([x[:, ::2], x[:, 1::2]], 1) + x


def uneven_split(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b, c = x.split([3, 5, 8], 1)
    return torch.cat([m.b(b), a, c], 1)


def permuted_by_a_table(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(x)[:, [3, 1, 0, 2, *range(15, 3, -1)]] * 2


def tied_both_ways(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    t = F.relu(F.linear(tokens(x), m.fc.weight, m.fc.bias))
    return F.linear(t, m.fc.weight.t()).transpose(1, 2).unflatten(2, (8, 8))


def gated(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b = m.wide(x).chunk(2, 1)
    return a * b.sigmoid()


def glu(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.glu(m.wide(x), 1)


def outer_product(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    a, b = m.a(x).mean((2, 3)), m.b(x).mean((2, 3))
    return m.last((a[:, :, None] * b[:, None]).flatten(1))[..., None, None]


def gram(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    f = m.a(x).flatten(2)
    return m.last((f @ f.transpose(1, 2)).flatten(1))[..., None, None]


def repeated(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(m.wide(x) + x.repeat(1, 2, 1, 1)) + m.wide(x).repeat_interleave(2, 1)[:, 4:20]


def spatial_attention(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return m.last(x * m.look(seen).sigmoid())


def unit_length(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.normalize(m.last(x), dim=1)


def softmax_gate(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return x * m.last(x).softmax(1)


def summed_rows(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    n, c, h, w = x.shape
    return m.last(x.view(n, 2, c // 2, h, w).sum(1))


def product_of_slices(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    x = m.last(x)
    return torch.cat([x[:, :8] * x[:, 8:], x[:, 4:12]], 1)


def scaled_by_a_weight(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(x) * m.last.weight.mean((1, 2, 3))[:, None, None]


def u_net(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = F.interpolate(m.down(F.max_pool2d(x, 2)), scale_factor=2.0, mode="bilinear")
    return m.last(torch.cat([x, y], 1))


def flat_norm(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(F.relu(m.norm(x.flatten(1))))[..., None, None]


def norm_of_everything(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(F.layer_norm(x, x.shape[1:]))


def response_norm(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(m.norm(x))


def recurrent(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    for norm in (m.one, m.two, m.three):
        x = F.relu(norm(m.last(x)))
    return x


def rnn(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.cell(tokens(m.last(x)))[0].transpose(1, 2)[..., None]


def torch_attention(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    t = tokens(x)
    return (t + m.attention(t, t, t, need_weights=False)[0]).transpose(1, 2)[..., None]


def class_token(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    t = torch.cat([m.token.expand(len(x), -1, -1), tokens(x)], 1) + m.places
    return m.layer(t)[:, 0, :, None, None]


def channel_attention(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    q, k, v = m.qkv(tokens(x)).reshape(len(x), 64, 3, 2, 8).permute(2, 0, 3, 4, 1)
    scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1)
    return m.out((scores @ v).permute(0, 3, 1, 2).reshape(len(x), 64, 16)).transpose(1, 2)[..., None]


def einsum_windows(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    q, k, v = m.qkv(tokens(x)).reshape(len(x), 4, 16, 3, 2, 8).permute(3, 0, 1, 4, 2, 5)
    y = torch.einsum("bghij,bghjd->bghid", torch.einsum("bghid,bghjd->bghij", q, k).softmax(-1), v)
    return m.out(y.permute(0, 1, 3, 2, 4).reshape(len(x), 64, 16)).transpose(1, 2)[..., None]


def three_way_einsum(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return torch.einsum("n c x, c d, d e -> n e x", x.flatten(2), m.a, m.b).unflatten(2, (8, 8))


def hypernetwork(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, m.make(m.seed).view(16, 16, 1, 1))


def masked(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    on = torch.arange(16) % 3 > 0
    return m.after(F.relu(m.wide(torch.where(on[:, None, None], m.last(x), x * 0.5))))


def running_sum(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.after(F.relu(m.wide(m.last(x).cumsum(1))))


def frequencies(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(torch.fft.rfft(m.a(x), dim=1).abs().sum((1, 2, 3))[:, None, None, None] * x)


def columns(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(F.unfold(x, 3, padding=1).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8))


def squeezed_groups(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    y = m.grouped(x)
    return m.after(y * m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))).sigmoid())


def shuffled_groups(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.after(F.channel_shuffle(m.grouped(x), 4))


def cat_then_groups(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.after(torch.cat([m.a(x), m.b(x)], 1))


def per_channel(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return m.last(m.act(x))


def joined_levels(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    levels = torch.stack([m.a(x).mean((2, 3)), m.b(x).mean((2, 3)), x.mean((2, 3))], 1)
    return m.last(m.join(levels)[:, 0])[..., None, None]


def standardised(m: Any, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    weight = F.batch_norm(m.last.weight.reshape(1, 16, -1), None, None, m.gain, training=True).reshape_as(m.last.weight)
    return F.relu(F.conv2d(x, weight, m.last.bias, padding=1))


def plain() -> nn.Conv2d:
    return nn.Conv2d(16, 16, 3, padding=1)


def half() -> nn.Conv2d:
    return nn.Conv2d(16, 8, 1)


def parameter(*sizes: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*sizes) * 0.3)


ADVERSARIAL: dict[str, type[Net]] = {
    "written_in_place": net(written_in_place, last=plain),
    "relu_in_place": net(relu_in_place, last=plain),
    "image_on_top": net(image_on_top),
    "crossed_halves": net(crossed_halves, last=plain),
    "every_second": net(every_second, last=plain),
    "uneven_split": net(uneven_split, width=17, b=lambda: nn.Conv2d(5, 6, 1)),
    "permuted_by_a_table": net(permuted_by_a_table, last=plain),
    "tied_both_ways": net(tied_both_ways, fc=lambda: nn.Linear(16, 24)),
    "gated": net(gated, wide=lambda: nn.Conv2d(16, 32, 1)),
    "glu": net(glu, wide=lambda: nn.Conv2d(16, 32, 1)),
    "outer_product": net(outer_product, a=half, b=half, last=lambda: nn.Linear(64, 16)),
    "gram": net(gram, a=half, last=lambda: nn.Linear(64, 16)),
    "repeated": net(repeated, wide=lambda: nn.Conv2d(16, 32, 1), last=lambda: nn.Conv2d(32, 16, 1)),
    "spatial_attention": net(spatial_attention, look=lambda: nn.Conv2d(2, 1, 3, padding=1), last=plain),
    "unit_length": net(unit_length, last=plain),
    "softmax_gate": net(softmax_gate, last=plain),
    "summed_rows": net(summed_rows, last=lambda: nn.Conv2d(8, 16, 1)),
    "product_of_slices": net(product_of_slices, last=plain),
    "scaled_by_a_weight": net(scaled_by_a_weight, last=plain),
    "u_net": net(u_net, down=plain, last=lambda: nn.Conv2d(32, 16, 1)),
    "flat_norm": net(flat_norm, norm=lambda: nn.BatchNorm1d(1024), last=lambda: nn.Linear(1024, 16)),
    "norm_of_everything": net(norm_of_everything, last=plain),
    "response_norm": net(response_norm, norm=lambda: nn.LocalResponseNorm(3), last=plain),
    "recurrent": net(recurrent, last=plain, **dict.fromkeys(("one", "two", "three"), lambda: nn.BatchNorm2d(16))),
    "rnn": net(rnn, last=plain, cell=lambda: nn.GRU(16, 16, batch_first=True)),
    "torch_attention": net(torch_attention, attention=lambda: nn.MultiheadAttention(16, 4, batch_first=True)),
    "class_token": net(
        class_token,
        token=lambda: parameter(1, 1, 16),
        places=lambda: parameter(1, 65, 16),
        layer=lambda: nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=True),
    ),
    "channel_attention": net(channel_attention, qkv=lambda: nn.Linear(16, 48), out=lambda: nn.Linear(16, 16)),
    "einsum_windows": net(einsum_windows, qkv=lambda: nn.Linear(16, 48), out=lambda: nn.Linear(16, 16)),
    "three_way_einsum": net(three_way_einsum, a=lambda: parameter(16, 12), b=lambda: parameter(12, 16)),
    "hypernetwork": net(hypernetwork, seed=lambda: parameter(6), make=lambda: nn.Linear(6, 256)),
    "masked": net(masked, last=plain, wide=lambda: nn.Conv2d(16, 24, 1), after=lambda: nn.Conv2d(24, 16, 1)),
    "running_sum": net(running_sum, last=plain, wide=lambda: nn.Conv2d(16, 24, 1), after=lambda: nn.Conv2d(24, 16, 1)),
    "frequencies": net(frequencies, a=half, last=plain),
    "columns": net(columns, last=lambda: nn.Linear(144, 16)),
    "squeezed_groups": net(
        squeezed_groups,
        width=24,
        grouped=lambda: conv(16, 16, groups=4),
        down=lambda: nn.Conv2d(16, 8, 1, groups=2),
        up=lambda: nn.Conv2d(8, 16, 1),
        after=lambda: conv(16, 24, groups=8),
    ),
    "shuffled_groups": net(
        shuffled_groups, grouped=lambda: conv(16, 32, groups=4), after=lambda: conv(32, 16, groups=8)
    ),
    "cat_then_groups": net(
        cat_then_groups, a=half, b=lambda: nn.Conv2d(16, 16, 1), after=lambda: conv(24, 16, groups=4)
    ),
    "per_channel": net(per_channel, act=lambda: nn.PReLU(16), last=plain),
    "weight_norm": net(
        lambda m, x, image: m.after(F.relu(m.last(x))),
        last=lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 24, 1)),
        after=lambda: nn.Conv2d(24, 16, 1),
    ),
    "spectral_norm": net(
        lambda m, x, image: m.after(F.relu(m.last(x))),
        last=lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 24, 1)),
        after=lambda: nn.Conv2d(24, 16, 1),
    ),
    "joined_levels": net(
        joined_levels, a=plain, b=plain, join=lambda: nn.Conv1d(3, 1, 1), last=lambda: nn.Linear(16, 16)
    ),
    "standardised": net(standardised, last=plain, gain=lambda: parameter(16)),
    "deep_transposed": net(
        lambda m, x, image: m.up(m.deep(x)),
        width=12,
        deep=lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16),
        up=lambda: nn.ConvTranspose2d(16, 12, 2, groups=4),
    ),
}
