"""hf: networks, where transformers is installed."""

import pytest
import torch
from torchvision_ops import define_missing_operators

from attar.models import build

pytest.importorskip("transformers")
define_missing_operators()

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def test_a_configuration_becomes_a_network_that_gives_logits():
    model = build("hf:resnet", classes=7, in_channels=1, **SMALL).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert "resnet.embedder.embedder.convolution.weight" in model.state_dict()


def test_a_folder_that_happens_to_be_called_as_a_type_is_none(tmp_path, monkeypatch):
    (tmp_path / "resnet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert build("hf:resnet", classes=7, **SMALL).config.num_labels == 7
    (tmp_path / "resnet" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no configuration of a model"):
        build("hf:resnet", classes=7, **SMALL)


def test_it_can_be_pruned():
    import attar

    model = build("hf:resnet", classes=7, in_channels=1, **SMALL).eval()
    before = sum(parameter.numel() for parameter in model.parameters())
    small = attar.prune(model, torch.zeros(2, 1, 32, 32), budget=attar.Budget(params="60%"))
    small = getattr(small, "model", small)
    assert sum(parameter.numel() for parameter in small.parameters()) <= 0.6 * before


def test_an_argument_in_both_words_is_refused():
    with pytest.raises(ValueError, match="given twice"):
        build("hf:resnet", classes=7, num_labels=8, **SMALL)


@pytest.mark.parametrize("name", ["hf:resnt", "hf:bert"])
def test_what_classifies_no_images_is_refused(name):
    with pytest.raises(ValueError, match="no image classifier"):
        build(name)


def test_a_type_with_several_classifiers_gives_the_first():
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 8,
    }
    model = build("hf:deit", classes=7, in_channels=1, image_size=16, **sizes)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 7)
