"""`attar plan`: the dry run says what a cut takes, by the weights and under the limits that it is given."""

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import attar
from attar.cli.app import app
from attar.prune import ProofError, Pruner, count_params


def planned(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", "resnet20", "--widths", "4,6,8", "--input", "1,16,16", *arguments])
    return result.exit_code, result.output


def test_names_what_goes_and_what_stays() -> None:
    code, said = planned("--params", "60%")
    assert code == 0
    assert "stays whole: fc.weight (output)" in said and "weights are random" in said
    before, after = (int(cell.replace(",", "")) for cell in row(said, "params")[1:3])
    assert before == count_params(attar.build("resnet20", widths=(4, 6, 8))) and after <= 0.6 * before


def test_ranks_by_the_weights_given(tmp_path) -> None:
    torch.manual_seed(0)
    model = attar.build("resnet20", widths=(4, 6, 8))
    with torch.no_grad():  # nothing in the network is worth as little as these channels
        for block in (model.layer1[0], model.layer1[1]):
            block.conv1.weight[1:] *= 1e-4
            block.bn1.weight[1:] *= 1e-4
            block.conv2.weight[:, 1:] *= 1e-4
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    code, said = planned("--params", "95%", "--weights", str(tmp_path / "weights.safetensors"))
    assert code == 0 and "weights are random" not in said
    assert int(row(said, "layer1.0.conv1.weight")[2]) < 4 and int(row(said, "layer1.1.conv1.weight")[2]) < 4
    assert int(row(said, "layer1.2.conv1.weight")[2]) == 4


def test_a_cut_that_is_not_exact_is_told(monkeypatch) -> None:
    def fails(self, *arguments):
        raise ProofError("the cut network is not the masked one")

    monkeypatch.setattr(Pruner, "step", fails)
    code, said = planned("--params", "60%")
    assert code == 1 and "attar: the cut network is not the masked one" in said and "Traceback" not in said


def test_latency_is_measured_before_and_after() -> None:
    code, said = planned("--latency", "60s", "--batch", "32")  # what any machine holds
    assert code == 0
    assert all(cell.endswith(" ms") and float(cell[:-3]) > 0 for cell in row(said, "latency")[1:3])


def test_a_latency_without_a_unit_is_in_seconds() -> None:
    code, said = planned("--latency", "60.5")
    assert code == 0 and "latency <= 60.5" in said


def test_what_cannot_be_is_refused_with_the_way_out(tmp_path) -> None:
    code, said = planned("--params", "10")
    assert code == 2 and "the smallest reachable is" in said
    code, said = planned("--params", "50%", "--weights", str(tmp_path / "none.safetensors"))
    assert code == 2 and "--weights" in said and "none.safetensors" in said


def test_a_network_of_ones_own_is_built_as_a_run_builds_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\ndef tiny(width=4):\n    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    for command in (("plan", "mynets:tiny", "--params", "50%"), ("summary", "mynets:tiny")):
        result = CliRunner().invoke(app, [*command, "--argument", "width=16"])
        assert result.exit_code == 0, result.output
        assert "330" in result.output  # (9 + 1) * 16 + (16 + 1) * 10
    code, said = planned("--params", "60%", "--argument", "widths")
    assert code == 2 and "write it as key=value" in said


def row(said: str, first: str) -> list[str]:
    """The cells of the table's row that begins so."""
    line = next(line for line in said.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]
