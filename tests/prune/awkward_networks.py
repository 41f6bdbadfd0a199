"""Small networks, each with something that index maps get wrong; (name, network, example) by `NETWORKS`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = (2, 3, 8, 8)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Net(nn.Module):
    """A stem to 16 channels, something awkward, and a classifier of `width` features."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.head = nn.Linear(width, 5)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.awkward(self.stem(image), image).mean((2, 3)))


class SharedWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.two.weight = self.one.weight

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.two(F.relu(self.one(x)))


class ReusedModule(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = conv(16, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.block(self.block(x)) + x


class ConcatOfSlices(Net):
    def __init__(self) -> None:
        super().__init__(22)
        self.other = conv(16, 12)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        y = self.other(x)
        return torch.cat([x[:, 3:13], y], 1)


class Shuffle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = conv(16, 16, groups=4)
        self.last = conv(16, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        x = self.grouped(x)
        n, c, h, w = x.shape
        return self.last(x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w))


class HalfShuffle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.branch = conv(8, 8)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1)
        return torch.stack([a, self.branch(b)], 2).flatten(1, 2)


class EinsumAttention(Net):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 12) for _ in range(3))
        self.out = nn.Linear(12, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        scores = torch.einsum("bnd,bmd->bnm", self.q(t), self.k(t)) / 4.0
        y = torch.einsum("bnm,bmd->bnd", scores.softmax(-1), self.v(t))
        return self.out(y).transpose(1, 2).reshape(x.shape)


class HeadsByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 6
        self.qkv, self.out = nn.Linear(16, 72), nn.Linear(24, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(t).reshape(len(t), -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out(y).transpose(1, 2).reshape(x.shape)


class FeaturesBeforeHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 72), nn.Linear(24, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(t).unflatten(2, (3, 4, 6)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1).flatten(2)
        return self.out(y).transpose(1, 2).reshape(x.shape)


class SqueezeExcite(Net):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class UnevenGroups(Net):
    def __init__(self) -> None:
        super().__init__(24)
        self.grouped, self.deep = conv(16, 24, groups=2), conv(24, 24, groups=24)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.deep(self.grouped(x))


class DepthMultiplier(Net):
    def __init__(self) -> None:
        super().__init__(32)
        self.deep = conv(16, 32, groups=16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.deep(x)


class Flipped(Net):
    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x + x.flip(1)


class Rolled(Net):
    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x * 2 + x.roll(4, 1).sigmoid() * x


class FlattenChannelsLast(Net):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(16 * 64, 12)
        self.back = nn.Linear(12, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.back(F.relu(self.wide(x.permute(0, 2, 3, 1).flatten(1))))[..., None, None]


class InputBesideFeatures(Net):
    def __init__(self) -> None:
        super().__init__()
        self.join = conv(19, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.join(torch.cat([image, x], 1))


class PaddedShortcut(Net):
    def __init__(self) -> None:
        super().__init__(24)
        self.wide = conv(16, 24)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.wide(x) + F.pad(x, (0, 0, 0, 0, 4, 4))


class PixelShuffle(Net):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.last = nn.Conv2d(16, 32, 1), conv(8, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.last(F.pixel_shuffle(self.up(x), 2))


class GroupNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(16, 24, 3), nn.GroupNorm(4, 24), nn.Conv2d(24, 16, 1)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.two(F.relu(self.norm(self.one(x))))


class StandardisedWeight(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        weight = self.one.weight - self.one.weight.mean((2, 3), keepdim=True)
        return self.two(F.relu(F.conv2d(x, weight, self.one.bias, padding=1)))


class TokenMixer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.back = nn.Linear(64, 20), nn.Linear(20, 64)
        self.norm = nn.LayerNorm(16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2)
        return (x.flatten(2) + self.back(F.gelu(self.mix(t)))).view(x.shape)


class LayerScale(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(16, 1, 1))
        self.block = conv(16, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.block(x)


class Transposed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.deep = nn.ConvTranspose2d(16, 20, 2, stride=2), nn.ConvTranspose2d(20, 16, 3, groups=2)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.deep(F.relu(self.up(x)))


class DictOutput(Net):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(16, 3)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        x = self.stem(image).mean((2, 3))
        return {"main": self.head(x), "side": self.side(F.relu(x))}


class TwoInputs(Net):
    def __init__(self) -> None:
        super().__init__(22)
        self.second = nn.Linear(7, 6)

    def forward(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.head(torch.cat([self.stem(image).mean((2, 3)), F.relu(self.second(numbers))], 1))


class AuxiliaryHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.aux = conv(16, 16), nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(image)
        y = self.head(F.dropout(self.block(x), 0.3, self.training).mean((2, 3)))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


class HardCodedSizes(Net):
    """Sizes written into the code: only the captured graph can follow."""

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 16, 4, 16).sin().reshape(-1, 16, 8, 8)


class Attention(nn.Module):
    """Sizes of heads computed from what comes in, which a cut makes wrong: heads get narrower than that."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, t: torch.Tensor, places: int) -> torch.Tensor:
        n, tokens, c = t.shape
        assert tokens == places
        q, k, v = self.qkv(t).reshape(n, tokens, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        return self.out((F.dropout(y.softmax(-1), 0.1, self.training) @ v).transpose(1, 2).reshape(n, tokens, c))


class HeadsFromInput(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Attention(), Attention()
        self.block = conv(16, 16)

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = self.block(x).flatten(2).transpose(1, 2)
        t = t + self.one(t, 64)
        return (t + self.two(t, 64)).transpose(1, 2).unflatten(2, (8, 8))


class Levelled(nn.Module):
    """Keys and values of the same width, which two attributes hold."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.key_width, self.value_width = 2, 8, 8
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(t).view(t.shape[0], -1, self.heads, self.key_width * 2 + self.value_width)
        q, k, v = (part.transpose(1, 2) for part in qkv.split([self.key_width, self.key_width, self.value_width], 3))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(t.shape[0], -1, self.heads * self.value_width))


class SameWidths(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = Levelled()

    def awkward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        t = x.flatten(2).transpose(1, 2)
        return (t + self.block(t)).transpose(1, 2).unflatten(2, (8, 8))


EXACT: list[Callable[[], nn.Module]] = [
    SharedWeights,
    ReusedModule,
    ConcatOfSlices,
    Shuffle,
    HalfShuffle,
    SqueezeExcite,
    UnevenGroups,
    DepthMultiplier,
    Flipped,
    Rolled,
    FlattenChannelsLast,
    InputBesideFeatures,
    PaddedShortcut,
    PixelShuffle,
    StandardisedWeight,
    LayerScale,
    Transposed,
    DictOutput,
    TwoInputs,
    AuxiliaryHead,
    HardCodedSizes,
]
"""Networks in which zero weights alone make a unit vanish, so that the masked original needs no graph."""
MIXING: list[Callable[[], nn.Module]] = [
    EinsumAttention,
    HeadsByHand,
    HeadsFromInput,
    FeaturesBeforeHeads,
    GroupNorm,
    TokenMixer,
]


def example(network: nn.Module) -> tuple[torch.Tensor, ...]:
    image = torch.randn(IMAGE)
    return (image, torch.randn(2, 7)) if isinstance(network, TwoInputs) else (image,)
