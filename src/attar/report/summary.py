"""A network layer by layer: shapes, parameters, multiply-accumulates and memory, as the reference's table shows them.

Layers are numbered in the order in which they finish, blocks after their parts; containers (Sequential, ModuleList)
and the network itself have no number. Sizes are those of one sample; memory counts every layer's output twice (forward
and backward) and the parameters once, in units of 1024² bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from attar.models import counting_macs, in_mode

MEBIBYTE = 1024**2
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Layer:
    """One call of one module."""

    number: int
    kind: str
    """The module's class, e.g. `BatchNorm2d`."""
    name: str
    """Where it lives in the network, e.g. `layer1.0.bn2`."""
    shapes: tuple[tuple[int, ...], ...]
    """One shape for each tensor of the output, the first dimension -1 for the batch."""
    params: int
    """Parameters that belong to this layer and to no layer above it in the table."""
    macs: int
    """Multiply-accumulates of one sample done by this layer itself: convolutions and matrix products."""
    bytes: int
    """Size of the output of one sample."""


@dataclass(frozen=True)
class Summary:
    """What a network consists of and costs; `str()` is the table."""

    layers: tuple[Layer, ...]
    params: int
    trainable: int
    macs: int
    """Of one sample, all layers."""
    input_bytes: int
    params_bytes: int
    rest: dict[str, int] = field(default_factory=dict)
    """Parameters and MACs that belong to no numbered layer, where there are any."""

    @property
    def pass_bytes(self) -> int:
        """Outputs of all layers, forward and backward, for one sample."""
        return 2 * sum(layer.bytes for layer in self.layers)

    @property
    def total_bytes(self) -> int:
        """Input, forward/backward pass and parameters."""
        return self.input_bytes + self.pass_bytes + self.params_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: everything that the table shows."""
        return {**asdict(self), "pass_bytes": self.pass_bytes, "total_bytes": self.total_bytes}

    def __str__(self) -> str:
        return "\n".join(table(self))


def summary(
    model: nn.Module,
    input_size: Sequence[int] = (1, 28, 28),
    device: torch.device | str | None = None,
) -> Summary:
    """Run one sample of zeros through the network and tell what each layer is and costs.

    The network is left as it was: modes, statistics, hooks and device. Tied parameters and modules called twice are
    counted once.

    Args:
        model: any network that takes one float tensor.
        input_size: shape of one sample, without the batch, e.g. (channels, height, width).
        device: where the sample is made; where the network is, unless given.

    Raises:
        ValueError: the size is no shape, or the network cannot take such a sample (with the network's own words).
    """
    size = checked_size(input_size)
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    where = device if device is not None else (weight.device if weight is not None else "cpu")
    sample = torch.zeros(1, *size, device=where, dtype=weight.dtype if weight is not None else torch.float32)
    watch = Watch(model)
    try:
        with watch, in_mode(model, False), torch.no_grad():
            model(sample)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ValueError(f"the network cannot take a sample of size {size}: {error}") from error
    parameters = list(model.parameters())
    total, macs = sum(p.numel() for p in parameters), watch.total_macs()
    rest = {
        "params": total - sum(layer.params for layer in watch.layers),
        "macs": macs - sum(layer.macs for layer in watch.layers),
    }
    return Summary(
        layers=tuple(watch.layers),
        params=total,
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        macs=macs,
        input_bytes=sample.nbytes,
        params_bytes=sum(p.nbytes for p in parameters),
        rest={key: value for key, value in rest.items() if value},
    )


class Watch:
    """Hooks that note every layer as it finishes; a context manager that takes them away again, come what may."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: list[Layer] = []
        self.counted: set[int] = set()
        """Ids of parameters that have been given to a layer."""
        self.open: list[list[int]] = []
        """For each call in progress: MACs at its start, MACs of the layers within."""
        self.cleanup = ExitStack()

    def __enter__(self) -> "Watch":
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                alone = module is self.model and not any(True for _ in module.children())
                if isinstance(module, CONTAINERS) or (module is self.model and not alone):
                    continue
                stack.callback(module.register_forward_pre_hook(self.started).remove)
                hook = self.finished(name)
                stack.callback(module.register_forward_hook(hook).remove)
            self.total_macs = stack.enter_context(counting_macs())
            self.cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.cleanup.__exit__(*error)

    def started(self, module: nn.Module, inputs: Any) -> None:
        self.open.append([self.total_macs(), 0])

    def finished(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            start, within = self.open.pop()
            macs = self.total_macs() - start
            if self.open:
                self.open[-1][1] += macs
            outputs = list(tensors(output))
            self.layers.append(
                Layer(
                    number=len(self.layers) + 1,
                    kind=type(module).__name__,
                    name=name,
                    shapes=tuple((-1, *t.shape[1:]) if t.dim() else () for t in outputs),
                    params=self.new_parameters(module),
                    macs=macs - within,
                    bytes=sum(t.nbytes for t in outputs),
                )
            )

        return hook

    def new_parameters(self, module: nn.Module) -> int:
        """Elements of the module's parameters that no earlier layer has; parts that were called came before it."""
        fresh = {id(p): p.numel() for p in module.parameters() if id(p) not in self.counted}
        self.counted |= set(fresh)
        return sum(fresh.values())


def table(summary: Summary) -> Iterator[str]:
    """Lines of the table: the reference's columns and totals, with MACs beside them."""
    width = 80
    yield "-" * width
    yield f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15} {'MACs':>15}"
    yield "=" * width
    for layer in summary.layers:
        shapes = [str(list(shape)) for shape in layer.shapes]
        text = shapes[0] if len(shapes) == 1 else f"[{', '.join(shapes)}]"
        yield f"{f'{layer.kind}-{layer.number}':>20}  {text:>25} {layer.params:>15,} {layer.macs:>15,}"
    yield "=" * width
    yield f"Total params: {summary.params:,}"
    yield f"Trainable params: {summary.trainable:,}"
    yield f"Non-trainable params: {summary.params - summary.trainable:,}"
    yield f"Total MACs: {summary.macs:,}"
    if summary.rest:
        yield "In no layer above: " + ", ".join(f"{value:,} {key}" for key, value in summary.rest.items())
    yield "-" * width
    yield f"Input size (MB): {summary.input_bytes / MEBIBYTE:.2f}"
    yield f"Forward/backward pass size (MB): {summary.pass_bytes / MEBIBYTE:.2f}"
    yield f"Params size (MB): {summary.params_bytes / MEBIBYTE:.2f}"
    yield f"Estimated Total Size (MB): {summary.total_bytes / MEBIBYTE:.2f}"
    yield "-" * width


def checked_size(input_size: Any) -> tuple[int, ...]:
    """The size as a tuple; raises ValueError if it is not positive whole numbers."""
    if isinstance(input_size, str) or not isinstance(input_size, Sequence) or not input_size:
        raise ValueError(f"input_size must be the shape of one sample, such as (1, 28, 28), not {input_size!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in input_size) or prod(input_size) > 1 << 30:
        raise ValueError(f"input_size must be positive whole numbers of a sane product, not {input_size!r}")
    return tuple(input_size)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in an output: a tensor, or tuples, lists, mappings and dataclasses of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            yield from tensors(getattr(value, entry.name))
