"""Small configurations of image classifiers of transformers, for images of 64 x 64: type of model -> its numbers."""

from typing import Any

TOKENS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "patch_size": 16,
}
WINDOWS = {"patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit": {**TOKENS, "image_size": 64},
    "deit": {**TOKENS, "image_size": 64},
    "beit": {**TOKENS, "image_size": 64},
    "dinov2": {**TOKENS, "image_size": 64},
    "swin": {**WINDOWS, "image_size": 64},
    "swinv2": {**WINDOWS, "image_size": 64},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "resnet": {**STAGES, "embedding_size": 16},
    "regnet": {**STAGES, "embedding_size": 16, "groups_width": 8},
    "poolformer": STAGES,
    "segformer": {**STAGES, "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 32},
    "mobilevit": {"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
}
