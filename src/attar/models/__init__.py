"""Networks by name: small-image families of attar's own, timm, torchvision, transformers, and the user's functions."""

from attar.models.context import exporter_quiet, in_mode
from attar.models.counting import counting_macs
from attar.models.huggingface import configured
from attar.models.registry import LIBRARIES, BuilderSpec, build, builders
from attar.models.strided import SafeStridedConvolutions

__all__ = [
    "LIBRARIES",
    "BuilderSpec",
    "SafeStridedConvolutions",
    "build",
    "builders",
    "configured",
    "counting_macs",
    "exporter_quiet",
    "in_mode",
]
