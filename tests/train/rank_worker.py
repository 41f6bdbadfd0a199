"""What each of several processes does in test_ranks.py; imported there too, for what one process makes of the same."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from attar.data import Views, load_data, pixel_statistics, split
from attar.distil import Batch, Pool, ViewOutputs, coding_for
from attar.models import build
from attar.prune import collect_gradients
from attar.recipe import Augment, Training
from attar.train import Machine, RankError, Ranks, TrainState, fit
from attar.train import ranks as ranks_module
from attar.train.rank_norm import RankNorm

TRAINING = Training(epochs=0.4, batch=63, learning_rate=0.05, ema=0.9, clip=1.0)


def digits() -> tuple[Views, torch.Tensor]:
    data = load_data("digits")
    parts = split(data.labels, 200, 0)
    mean, std = pixel_statistics(data.images, parts.train)
    augmentation = Augment(crop_padding=1, flip=0.0, erase=0.5)
    return Views(data.images, data.labels, augmentation, 0, "cpu", mean, std), parts.train


def loss(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """In float64: what is left between one process and several is nothing but the order of sums."""
    logits = model(batch.images.double())
    return F.cross_entropy(logits, batch.labels), logits


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet20", widths=(4, 5, 6)).double()


def trained(ranks: Ranks) -> dict[str, object]:
    """A short training; the weights, the average, the reported numbers, and every view that this rank saw."""
    views, samples = digits()
    state = TrainState(network(), Machine("cpu", "fp32", True, 1))
    seen, said = [], []

    def watched(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((batch.epoch, batch.samples.clone(), batch.images.clone()))
        return loss(model, batch)

    fit(state, watched, views, samples, TRAINING, ranks=ranks, on_step=lambda p: said.append((p.loss, p.accuracy)))
    return {"model": state.model.state_dict(), "ema": state.ema, "seen": seen, "said": said}


def normed(ranks: Ranks) -> list[torch.Tensor]:
    """Batch norm of this rank's share of a batch: outputs, gradients, running statistics, for several layouts."""
    found: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for norm, shape in (
        (nn.BatchNorm1d(3, momentum=None), (7, 3)),
        (nn.BatchNorm1d(3, affine=False), (7, 3, 4)),
        (nn.BatchNorm2d(3, track_running_stats=False), (7, 3, 4, 5)),
        (nn.BatchNorm3d(2), (7, 2, 3, 4, 5)),
    ):
        module = norm.double()
        whole, grads = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        x = ranks.share(whole).clone().requires_grad_()
        y = module(x)
        y.backward(ranks.share(grads))
        summed = [ranks.total(p.grad.clone()) for p in module.parameters()]
        found += [y.detach(), x.grad, *summed, *(b.double() for b in module.buffers())]
    return found


def plainly_normed(ranks: Ranks) -> list[torch.Tensor]:
    """Outputs and running statistics of batch norms as captured graphs and code of one's own call them."""
    whole, found = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), []
    aten = torch.ops.aten.batch_norm
    for call in (torch.batch_norm, aten.default, aten):
        weight, bias, mean, variance = torch.tensor([[1, 2, 3], [4, 5, 6], [0, 0, 0], [1, 1, 1]], dtype=torch.float64)
        found += [call(ranks.share(whole), weight, bias, mean, variance, True, 0.1, 1e-5, True), mean, variance]
    return found


def gradients(ranks: Ranks) -> list[torch.Tensor]:
    """Gradients and their squares, batch by batch, each batch shared."""
    views, samples = digits()

    def shares():
        for whole in samples[:90].split(45):
            mine = ranks.share(whole)
            yield Batch(*views.batch(0, mine), 0, mine), ranks.part(len(whole))

    context = collect_gradients(network(), shares(), lambda m, b: loss(m, b[0])[0] * b[1], merge=ranks.mean_)
    return [*context.gradients.values(), *context.squares.values()]


def outputs(ranks: Ranks, folder: Path | None) -> tuple[list[torch.Tensor], int]:
    """A teacher's outputs for this rank's shares of some batches, and how many blocks it computed for them."""
    views, samples = digits()
    teacher, calls = network().float().eval(), []

    def evaluate(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        with torch.inference_mode():
            return teacher(images)

    pool = Pool({"what": "a test"}, folder, 10**9) if folder is not None else None
    together = ranks if ranks.count > 1 else None
    source = ViewOutputs(views, samples, evaluate, coding_for(10), pool=pool, together=together)
    found = []
    for epoch in (0, 1, 0):
        for whole in views.order(epoch, samples)[:1200].split(300):
            mine = ranks.share(whole)
            found.append(source(Batch(*views.batch(epoch, mine), epoch, mine)))
    return found, len(calls)


def refused(ranks: Ranks) -> list[str]:
    """What is said of ranks that differ, and of batches that are too small."""
    said = []
    for attempt in (
        lambda: ranks.check_same("the plan", bytes([ranks.rank] * 32)),
        lambda: ranks.part(ranks.count - 1),
    ):
        try:
            attempt()
        except RankError as error:
            said.append(str(error))
    return said


def main(out: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.here()
    with ranks.connected(cuda=False):
        with RankNorm(ranks):
            norms, plain_norms = normed(ranks), plainly_normed(ranks)
        told = ranks.tell(lambda: ({"a": torch.arange(3)}, {"rank": ranks.rank}))
        by_memory = trained(ranks)
        ways = [mail.fits(torch.zeros(1)) for mail in ranks._freights.values()]
        ranks_module.FREIGHT = 0
        found = {
            "trained": by_memory,
            "trained by gloo": trained(ranks),
            "gradients' ways": ways,
            "normed": norms,
            "plainly normed": plain_norms,
            "gradients": gradients(ranks),
            "in memory": outputs(ranks, None),
            "stored": outputs(ranks, out / "pools"),
            "refused": refused(ranks),
            "told": told,
        }
    torch.save(found, out / f"{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
