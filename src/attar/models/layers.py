"""Parts that the families share."""

from torch import nn


class AvgPool2d(nn.AdaptiveAvgPool2d):
    """The mean over all positions, (B, C, H, W) -> (B, C, 1, 1), whatever H and W are.

    Stands where the reference has an average pool of exactly the final map's size, and keeps its name in tables.
    """

    def __init__(self) -> None:
        super().__init__(1)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution (times 1/stride, rounded up)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def initialise(network: nn.Module) -> None:
    """Kaiming initialisation (He et al. 2015, normal, fan out) of convolutions; the rest stays as torch has it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
