"""attar: distil a trained classifier into a small one, prune it to a hard budget, ship it with proof.

Names are looked up on first use, so that `import attar` costs milliseconds and does not import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Budget": "attar.recipe",
    "build": "attar.models",
    "couple": "attar.prune",
    "prune": "attar.prune",
    "summary": "attar.report",
    "run": "attar.pipeline",
    "control": "attar.pipeline",
    "load": "attar.artifact",
    "save": "attar.artifact",
    "verify": "attar.artifact",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'attar' has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
