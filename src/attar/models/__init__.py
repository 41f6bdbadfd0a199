"""Networks by name: small-image families of attar's own, timm, torchvision, transformers, and the user's functions."""

from attar.models.huggingface import configured
from attar.models.registry import LIBRARIES, BuilderSpec, build, builders
from attar.models.strided import safe_strided_convolutions

__all__ = ["LIBRARIES", "BuilderSpec", "build", "builders", "configured", "safe_strided_convolutions"]
