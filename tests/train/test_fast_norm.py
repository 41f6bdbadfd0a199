"""Folded batch norm must be torch's batch norm: values, gradients, running statistics, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from attar.models import build
from attar.train.fast_norm import batch_norm, fast_batch_norm, fold_factor

LARGE = (64, 12, 12)  # batch, height, width: enough rows for the fast path


def channels_last(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 0.7
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def filled(channels: int, **arguments: object) -> nn.BatchNorm2d:
    """A BatchNorm2d whose weights and running statistics are not the neutral ones."""
    module = nn.BatchNorm2d(channels, **arguments)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.running_mean, module.running_var):
            if tensor is not None:
                tensor.uniform_(0.5, 1.5, generator=generator)
    return module


def run(module: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    y.backward(grad)
    assert x.grad is not None
    found = {"y": y.detach(), "d_x": x.grad}
    found |= {f"d_{name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return found | {name: b.clone() for name, b in module.named_buffers()}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative error in the 2-norm."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


def spy(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Channels of every call that took the fast path."""
    import attar.train.fast_norm as fast_norm

    calls: list[int] = []

    def seen(x: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(x.shape[1])
        return batch_norm(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fast_norm, "batch_norm", seen)
    return calls


@pytest.mark.parametrize("channels", [1, 3, 9, 19, 39, 70])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"momentum": 0.3, "eps": 0.1}],
    ids=["default", "no affine", "no running statistics", "cumulative", "momentum and eps"],
)
def test_float32_equals_torch(channels: int, arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    stock = filled(channels, **arguments)
    fast, exact = copy.deepcopy(stock), copy.deepcopy(stock).double()
    calls = spy(monkeypatch)
    n, h, w = LARGE
    for step in range(3):
        x = channels_last(n, channels, h, w, seed=step)
        grad = channels_last(n, channels, h, w, seed=step + 100)
        expected, truth = run(stock, x, grad), run(exact, x.double(), grad.double())
        with fast_batch_norm(fast):
            found = run(fast, x, grad)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            # torch's own sums over long columns are off by 1e-5 here
            assert distance(tensor, truth[name]) < 4e-6, name
            assert distance(tensor, expected[name]) < 4e-5, name
            assert tensor.dtype == expected[name].dtype
    assert calls == [channels] * 3
    if fast.num_batches_tracked is not None:
        assert fast.num_batches_tracked.item() == 3


@pytest.mark.parametrize("channels", [9, 19, 39])
def test_bfloat16_is_as_near_to_the_truth_as_torch(channels: int) -> None:
    n, h, w = LARGE
    stock = filled(channels)
    fast, exact = copy.deepcopy(stock), copy.deepcopy(stock).double()
    x = channels_last(n, channels, h, w, dtype=torch.bfloat16)
    grad = channels_last(n, channels, h, w, dtype=torch.bfloat16, seed=1)
    truth, expected = run(exact, x.double(), grad.double()), run(stock, x, grad)
    with fast_batch_norm(fast):
        found = run(fast, x, grad)
    for name in ("y", "d_x"):
        assert found[name].dtype == torch.bfloat16
        # d_x is rounded twice
        assert distance(found[name], truth[name]) < 1.6 * distance(expected[name], truth[name])
    for name in ("d_weight", "d_bias", "running_mean", "running_var"):
        assert found[name].dtype == torch.float32
        assert distance(found[name], truth[name]) < 1e-5, name
    # batch norm's input gradient sums to nothing in each channel: no drift from rounded coefficients
    assert found["d_x"].double().mean((0, 2, 3)).abs().max() < 1e-3 * found["d_x"].double().std()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients_by_finite_differences(training: bool, affine: bool) -> None:
    x = channels_last(4, 5, 3, 2, dtype=torch.float64).requires_grad_()
    mean, variance = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    weights = [torch.full((5,), v, dtype=torch.float64, requires_grad=True) for v in (1.3, 0.2)] if affine else []

    def function(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        pair = weights or (None, None)
        return batch_norm(x, mean.clone(), variance.clone(), pair[0], pair[1], training, 0.1, 1e-5)

    assert fold_factor(4 * 3 * 2, 5) > 1
    assert torch.autograd.gradcheck(function, (x, *weights))


def test_statistics_of_a_large_mean_are_not_cancelled() -> None:
    x = channels_last(64, 9, 12, 12) + 1000
    fast, exact = nn.BatchNorm2d(9, momentum=1.0), nn.BatchNorm2d(9, momentum=1.0).double()
    with fast_batch_norm(fast):
        fast(x)
    exact(x.double())
    assert fast.running_var is not None and exact.running_var is not None
    assert distance(fast.running_var, exact.running_var) < 1e-5


def test_eval_mode_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = filled(19).eval()
    fast = copy.deepcopy(stock)
    calls = spy(monkeypatch)
    x, grad = channels_last(64, 19, 12, 12), channels_last(64, 19, 12, 12, seed=1)
    expected = run(stock, x, grad)
    with fast_batch_norm(fast):
        found = run(fast, x, grad)
        with torch.no_grad():
            fast(x)
    assert calls == [19]
    for name, tensor in found.items():
        assert distance(tensor, expected[name]) < 2e-6, name


def test_other_inputs_go_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch)
    with fast_batch_norm(nn.BatchNorm2d(9)), fast_batch_norm(wide := nn.BatchNorm2d(32)), torch.no_grad():
        wide(channels_last(64, 32, 12, 12))
    with fast_batch_norm(module := nn.BatchNorm2d(9)):
        module(channels_last(64, 9, 12, 12).contiguous())
        module(channels_last(2, 9, 12, 12))
        with pytest.raises(ValueError, match="Expected more than 1 value"):
            module(torch.zeros(1, 9, 1, 1))
        with pytest.raises(ValueError, match="expected 4D"):
            module(torch.zeros(1, 9, 1))
    assert calls == []


def test_gradients_in_any_layout() -> None:
    stock, fast = filled(9), filled(9)
    x = channels_last(64, 9, 12, 12)
    for grad in (channels_last(64, 9, 12, 12, seed=1).contiguous(), torch.ones(64, 9, 1, 1).expand(64, 9, 12, 12)):
        expected = run(stock, x, grad)
        with fast_batch_norm(fast):
            found = run(fast, x, grad)
        # the gradient of a sum is zero up to rounding, so compare on the scale of the weights' gradients
        assert (found["d_x"] - expected["d_x"]).abs().max() < 1e-5


def test_in_place_relu_may_follow() -> None:
    x = channels_last(64, 9, 12, 12)
    results = []
    for inplace in (False, True):
        model = nn.Sequential(filled(9), nn.ReLU(inplace=inplace))
        with fast_batch_norm(model):
            results.append(run(model, x, channels_last(64, 9, 12, 12, seed=1)))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_nothing_is_left_behind() -> None:
    model = build("resnet20", widths=(9, 19, 39))
    before = {name: (type(module), set(vars(module))) for name, module in model.named_modules()}
    keys = list(model.state_dict())
    with pytest.raises(KeyError), fast_batch_norm(model) as count:
        assert count == 21
        assert list(model.state_dict()) == keys
        raise KeyError
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before


def test_nesting_keeps_the_outer_context(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch)
    module = nn.BatchNorm2d(9)
    x = channels_last(64, 9, 12, 12)
    with fast_batch_norm(module):
        with fast_batch_norm(module) as count:
            assert count == 0
        module(x)
    module(x)
    assert calls == [9]


def test_a_copy_made_inside_updates_its_own_statistics() -> None:
    module = nn.BatchNorm2d(9)
    with fast_batch_norm(module):
        twin = copy.deepcopy(module)
        twin(channels_last(64, 9, 12, 12))
    assert module.num_batches_tracked is not None and twin.num_batches_tracked is not None
    assert (module.num_batches_tracked.item(), twin.num_batches_tracked.item()) == (0, 1)


def test_modules_with_their_own_forward_are_left_alone() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    class Renamed(nn.BatchNorm2d):
        pass

    with fast_batch_norm(nn.Sequential(Activated(9), Renamed(9), nn.BatchNorm1d(9))) as count:
        assert count == 1


def test_export_inside_sees_torchs_operation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.BatchNorm2d(9)).to(memory_format=torch.channels_last)
    with fast_batch_norm(model):
        graph = torch.export.export(model, (channels_last(64, 1, 12, 12),)).graph
    assert any("batch_norm" in str(node.target) for node in graph.nodes)


def test_training_a_network_gives_the_same_numbers() -> None:
    """Five float32 steps of ResNet-20 at pruned widths; training amplifies rounding."""
    losses = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = build("resnet20", widths=(9, 19, 39)).to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x, y = channels_last(64, 1, 28, 28), torch.arange(64) % 10
        found = []
        for _ in range(5):
            with fast_batch_norm(model if fast else nn.Identity()):
                loss = nn.functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_the_same_bits_each_time() -> None:
    x, grad = (channels_last(64, 19, 12, 12, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    results = []
    for _ in range(3):
        module = filled(19)
        with fast_batch_norm(module):
            results.append(run(module, x, grad))
    assert all(torch.equal(results[0][name], result[name]) for result in results[1:] for name in result)
