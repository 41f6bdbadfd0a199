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
ROUNDED = {"image_size": 64, "depth_multiplier": 0.25}
PYRAMID = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 40, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [4, 4, 2, 2],
}
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
    "dinov2_with_registers": {**TOKENS, "image_size": 64},
    "vit_msn": {**TOKENS, "image_size": 64},
    "data2vec-vision": {**TOKENS, "image_size": 64},
    "ijepa": {**TOKENS, "image_size": 64},
    "donut-swin": {**WINDOWS, "image_size": 64},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": ROUNDED,
    "mobilenet_v2": ROUNDED,
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
    "pvt": PYRAMID,
    "pvt_v2": PYRAMID,
    "swiftformer": {"image_size": 64, "embed_dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
    "focalnet": {
        "image_size": 64,
        "embed_dim": 16,
        "hidden_sizes": [32, 64, 128, 128],
        "depths": [1, 1, 1, 1],
        "focal_levels": [2, 2, 2, 2],
        "focal_windows": [3, 3, 3, 3],
    },
    "bit": {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "num_groups": 8},
    "hiera": {
        "image_size": [64, 64],
        "embed_dim": 16,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 2, 4, 8],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
    },
    "hgnet_v2": {
        "embedding_size": 16,
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 32, 48, 64],
        "stage_mid_channels": [8, 12, 16, 24],
        "stage_out_channels": [32, 48, 64, 96],
        "hidden_sizes": [32, 48, 64, 96],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "stage_num_blocks": [1, 1, 1, 1],
    },
    "textnet": {"image_size": [64, 64], "stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 48]},
    "timm_wrapper": {},
}
