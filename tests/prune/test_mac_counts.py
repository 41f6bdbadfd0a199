"""Multiply-accumulates of one sample: the engine says what the artifact counts, whatever the example's batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from attar.artifact.replay import count_macs as counted
from attar.prune import Pruner, count_macs

WORDS = torch.randn(2, 7, 12)


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 16)), layer, nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(self.first(x))[0][:, -1])


class Cell(Recurrent):
    """A cell, one step after the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words, state = self.first(x), None
        for place in range(3):
            state = self.layer(words[:, place], state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Products(nn.Module):
    """Matrix products by their rarer names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 16)), nn.Linear(20, 4)
        self.one, self.two, self.three = (nn.Parameter(torch.randn(n, 20)) for n in (16, 20, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.tensordot(self.first(x), self.one, dims=([2], [0])).mean(1)
        return self.last(torch.linalg.multi_dot([found, self.two, self.three]))


class Vector(nn.Module):
    """A head that is one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.vector = (
            nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16)),
            nn.Parameter(torch.randn(16)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mv(self.first(x).mean(1), self.vector)


class Attention(nn.Module):
    """A layer that torch has a path of its own for where nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(self.first(x)).mean(1))


UNUSUAL = {
    "gru": lambda: Recurrent(nn.GRU(16, 16, batch_first=True)),
    "lstm": lambda: Recurrent(nn.LSTM(16, 16, batch_first=True)),
    "two-way lstm": lambda: Recurrent(nn.LSTM(16, 8, batch_first=True, bidirectional=True)),
    "gru cell": lambda: Cell(nn.GRUCell(16, 16)),
    "lstm cell": lambda: Cell(nn.LSTMCell(16, 16)),
    "products": Products,
    "vector": Vector,
    "attention": Attention,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_engine_counts_what_the_artifact_counts(name: str) -> None:
    torch.manual_seed(0)
    model = UNUSUAL[name]().eval()
    whole = counted(model, WORDS[:1])
    cut = Pruner(model, WORDS).step({"macs": int(whole * 0.95)})
    assert cut.before.macs == whole
    assert cut.after.macs == counted(model, WORDS[:1]) <= 0.95 * whole


def test_an_lstm_counts_its_matrix_products() -> None:
    """oneDNN's kernel is one operation, which torch's counter does not know."""
    layer, enabled = nn.LSTM(16, 16, batch_first=True), torch.backends.mkldnn.enabled
    wanted = 7 * (12 * 24 + 24 * 16) + 7 * 4 * 16 * (16 + 16) + 16 * 4
    assert count_macs(Recurrent(layer), WORDS) == counted(Recurrent(layer), WORDS[:1]) == wanted
    assert torch.backends.mkldnn.enabled == enabled


class Compared(nn.Module):
    """Images, and words of their own number."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.word = nn.Linear(12, 6), nn.Linear(5, 6)

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.image(x) @ self.word(words).T


@pytest.mark.parametrize(("images", "words"), [(1, 100), (2, 7), (7, 2)])
def test_a_call_whose_inputs_share_no_batch_is_one_sample(images: int, words: int) -> None:
    example = (torch.randn(images, 12), torch.randn(words, 5))
    assert count_macs(Compared(), example) == images * 12 * 6 + words * 5 * 6 + images * 6 * words


def test_a_transposed_convolution_counts_from_its_input_whatever_its_name() -> None:
    class Enlarged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 8, 2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.convolution(x, self.kernel, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1)

    wanted = 3 * 5 * 5 * 8 * 2 * 2
    assert count_macs(Enlarged(), torch.randn(2, 3, 5, 5)) == counted(Enlarged(), torch.randn(1, 3, 5, 5)) == wanted


class LowRank(nn.Module):
    """A weight that is the product of two: computed once, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 24), nn.Linear(16, 4)
        self.up, self.down = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(8, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(functional.linear(self.first(x), self.up @ self.down).relu())


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_weights_made_of_weights_count_once(batch: int) -> None:
    model, wanted = LowRank(), 12 * 24 + 16 * 8 * 24 + 24 * 16 + 16 * 4
    assert count_macs(model, torch.randn(batch, 12)) == counted(model, torch.randn(1, 12)) == wanted
    pruner = Pruner(model, torch.randn(batch, 12))
    cut = pruner.step({"macs": wanted // 2})
    assert cut.after.macs == counted(model, torch.randn(1, 12)) <= wanted // 2
