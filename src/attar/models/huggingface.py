"""Image classifiers of Hugging Face's transformers, made from a configuration; nothing is fetched."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attar.models.checks import rename

WORDS = {"classes": "num_labels", "in_channels": "num_channels"}
"""attar's words for what configurations call otherwise."""

ABOUT_FILES = frozenset(
    (
        "architectures",
        "auto_map",
        "dtype",
        "id2label",
        "label2id",
        "model_type",
        "out_features",
        "out_indices",
        "stage_names",
        "torch_dtype",
        "transformers_version",
        "_name_or_path",
    )
)
"""What a saved configuration says of where it comes from, or what follows from the rest."""


def configured(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """`hf:FOLDER`, of `save_pretrained`, as `hf:TYPE` and the arguments that its config.json spells out.

    Other names are returned as they are, and so are those of types beside which a folder without such a file happens to
    lie; `arguments` go over what the file says. Raises ValueError if the file is no configuration of a model.
    """
    place = Path(name.removeprefix("hf:")).expanduser()
    if not name.startswith("hf:") or not place.is_dir():
        return name, dict(arguments)
    file = place / "config.json"
    if len(place.parts) == 1 and not file.exists() and not name.endswith("/"):
        return name, dict(arguments)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name!r}: {file} is no configuration of a model ({error!r:.100})") from None
    said = {key: value for key, value in config.items() if key not in ABOUT_FILES and value is not None}
    given = {WORDS.get(key, key) for key in arguments}
    return f"hf:{kind}", {**{key: value for key, value in said.items() if key not in given}, **arguments}


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
    config = transformers.AutoConfig.for_model(kind, **rename(arguments, WORDS))
    if not isinstance(known[kind], str) and not config.architectures:
        config.architectures = [known[kind][0]]  # of several, such as DeiT's, transformers wants to be told which
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.register_forward_hook(_logits)  # a hook, not a wrapper: names of tensors stay
    return network


def _logits(module: nn.Module, inputs: Any, output: Any) -> Tensor:
    return output.logits
