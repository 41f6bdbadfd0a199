"""Networks by name: ResNets for small images, timm, torchvision, and the user's own functions."""

from attar.models.registry import BuilderSpec, build, builders

__all__ = ["BuilderSpec", "build", "builders"]
