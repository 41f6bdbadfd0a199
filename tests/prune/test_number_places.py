"""Operations that train mode repeats are asked once what became of their numbers, and the answer is the same."""

import pytest
import torch
from torch import nn

from attar.prune import Pruner, attributes
from attar.prune.shrink import merged_masks


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        if self.training:  # one operation more with the number
            mixed = mixed.flatten(2).unflatten(2, (self.heads, self.head_dim))
        return self.out(mixed.reshape(len(x), -1, self.heads * self.head_dim))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.attention, self.head = nn.Linear(5, 24), Attention(24, 3), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.attention(torch.relu(self.into(x))).mean(1))


@pytest.mark.parametrize("level", range(len(attributes.DARING)))
def test_what_train_mode_repeats_is_left_out(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Small()
    pruner = Pruner(model, torch.randn(2, 7, 5), prove=False)
    left = pruner.cutter.coupled.label_kept(merged_masks(pruner.cutter.masks, pruner.plan_share(0.6)))
    original = {path: {} for path, _ in model.named_modules()} | {"attention": {"heads": 3, "head_dim": 8}}

    def mended() -> tuple[attributes.Attributes, list[int]]:
        places = attributes.NumberPlaces(pruner.cutter.coupled.walks, model, original)
        levels = dict.fromkeys(places.classes.values(), level)
        asked = [len(places.operations(number, {})) for number in range(2)]
        return attributes.mended_attributes(places, left, levels, lambda: None), asked

    found, asked = mended()
    monkeypatch.setattr(attributes, "_new", lambda *arguments: True)
    everything, all_asked = mended()
    assert found == everything and (level or found["attention"] == {"head_dim": 4})
    assert asked[0] == all_asked[0] and 0 < asked[1] < all_asked[1]


class Unflattened(nn.Module):
    """Keys as wide as values, and as many heads: only the code says which of the sizes is which."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.key, self.value = 4, 4, 4
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (t.unflatten(2, (self.heads, self.key)).transpose(1, 2) for t in (self.q(x), self.k(x)))
        v = self.v(x).unflatten(2, (self.heads, self.value)).transpose(1, 2)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_sizes_of_unflatten_are_told_apart_by_where_the_code_reads_them() -> None:
    torch.manual_seed(0)
    model = Unflattened()
    pruner = Pruner(model, torch.randn(2, 7, 16))
    kept = {}
    for index, group in enumerate(pruner.groups):
        if group.row is not None:  # three of each head's four keys, one of its values
            stay = 1 if group.name.startswith("v.") else 3
            kept[index] = (torch.arange(16) % 4) < stay
            assert torch.equal(group.row, torch.arange(16) // 4)
    pruner.cut(kept)
    assert (model.heads, model.key, model.value) == (4, 3, 1)
    assert not pruner.parts
