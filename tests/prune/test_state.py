"""What a pruner's state must bring back: later cuts go on, and are proved, as if nothing had been interrupted."""

import torch
from torch import nn

from attar.prune import Pruner


class Masked(nn.Module):
    """One answer is -1e9 whatever comes in, so that proofs go by how little answers change; the rest divides by its width."""

    def __init__(self) -> None:
        super().__init__()
        self.runs, self.asked, self.out = nn.Linear(7, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.asked(self.runs(x).tanh()).relu()
        y = self.out(h / h.shape[1])
        return torch.cat([y[:, :3], y[:, 3:] * 0 - 1e9], 1)


def test_cuts_and_proofs_go_on_as_without_a_stop() -> None:
    torch.manual_seed(0)
    model, example = Masked(), torch.randn(5, 7)
    whole = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, example)
    pruner.cut(pruner.plan_share(0.7))
    again = Masked()
    again.load_state_dict(whole)
    second = Pruner(again, example)
    second.restore(pruner.state())
    again.load_state_dict(model.state_dict())
    assert second.mode == pruner.mode and second.widths() == pruner.widths() and min(pruner.widths().values()) < 32
    with torch.no_grad():  # fine-tuning in between: asked anew, the answers would change by another share
        for network in (model, again):
            network.out.weight *= 3
    first, other = pruner.cut(pruner.plan_share(0.4)), second.cut(second.plan_share(0.4))
    assert first.proof == other.proof < 1e-10
    assert first.notes == other.notes
    assert pruner.state().keys() == second.state().keys()
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in pruner.state().items())
