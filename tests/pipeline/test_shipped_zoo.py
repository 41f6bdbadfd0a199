"""What the repository ships: every artifact opens, counts as it says, and answers as its record says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attar import artifact
from attar.artifact.folder import WEIGHTS
from attar.data import load_data
from attar.pipeline.zoo import entries, read_entry
from attar.report.card import model_card

ZOO = Path(__file__).parents[2] / "zoo"
IMAGES = 500
"""Of the 10,000; `attar zoo eval` looks at them all."""


@pytest.fixture(scope="module")
def data():
    return load_data("fashion-mnist")


def test_there_are_some():
    assert len(entries(ZOO)) >= 5


@pytest.mark.parametrize("entry", entries(ZOO), ids=lambda entry: entry.name)
def test_shipped_artifact(entry, data):
    assert artifact.verify(entry.artifact)
    tensors = load_file(entry.artifact / WEIGHTS)
    learnt = [name for name in tensors if name.split(".")[-1] in ("weight", "bias")]
    params = sum(tensors[name].numel() for name in learnt)
    assert params == entry.description.counts["params"] == entry.record["cost"]["after"]["params"]
    prune = entry.record["recipe"]["prune"]  # none of an uncompressed network
    assert (prune is None) == (not entry.description.budget)
    assert prune is None or params <= prune["budget"]["params"]

    assert data.fingerprint == entry.record["data"]["fingerprint"]
    assert data.test_labels.tolist() == entry.predictions["labels"]
    found = artifact.evaluate(artifact.load(entry.artifact), data.test_images[:IMAGES], data.test_labels[:IMAGES])
    recorded = torch.tensor(entry.predictions["student"])
    assert int((found.predictions != recorded[:IMAGES]).sum()) <= 1  # a tie may fall otherwise on another processor
    assert entry.record["test"]["student"]["hits"] == int((recorded == data.test_labels).sum())


def test_the_card_of_an_uncompressed_network_speaks_of_no_budget_and_no_pruning():
    for name, speaks in (("fashion-mnist-resnet20", False), ("fashion-mnist-100k-again", True)):
        entry = read_entry(ZOO, name)
        card = model_card(entry.facts(), entry.record, "record")
        for words in ("| budget |", "before pruning", "No control"):
            assert (words in card) == speaks, (name, words)
