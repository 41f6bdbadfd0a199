"""Image classifiers of Hugging Face's transformers, made from a configuration; nothing is fetched."""

from typing import Any

from torch import Tensor, nn

WORDS = {"classes": "num_labels", "in_channels": "num_channels"}
"""attar's words for what configurations call otherwise."""


def build_huggingface(transformers: Any, kind: str, arguments: dict[str, Any]) -> nn.Module:
    """A freshly initialised classifier that gives logits (B, classes).

    Its tensors have the names that transformers gives them, so that weights saved there fit.

    Args:
        transformers: the package.
        kind: a model type such as `resnet`, `vit` or `convnext`.
        arguments: of its configuration; `classes` and `in_channels` are understood.

    Raises ValueError for a model type that is unknown or classifies no images; others as the configuration does.
    """
    known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if kind not in known:
        raise ValueError(
            f"transformers has no image classifier of the type {kind!r}; it has {', '.join(sorted(known))}"
        )
    renamed = {WORDS.get(key, key): value for key, value in arguments.items()}
    config = transformers.AutoConfig.for_model(kind, **renamed)
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.register_forward_hook(_logits)  # a hook, not a wrapper: names of tensors stay
    return network


def _logits(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    return output.logits
