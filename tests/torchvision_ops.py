"""The one place where tests and benchmarks make `import torchvision` (and so timm) work beside a CPU-only torch.

The published torchvision wheel registers kernels for operators whose schemas its compiled half could not define; giving
torch the two schemas is enough to import it. The product never needs this.
"""

import torch

_library: torch.library.Library | None = None


def define_missing_operators() -> None:
    """Define `torchvision::nms` and `qnms` once, unless a working torchvision has them."""
    global _library
    if _library is not None:
        return
    try:
        import torchvision  # noqa: F401

        return
    except RuntimeError:
        pass
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
