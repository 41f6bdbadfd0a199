"""A network as a list of plain steps that the report's page can run: captured, made static, constants folded.

The network is captured for one image (`torch.export`), so that every shape is known. Whatever only moves data becomes a
strided copy, or nothing; what depends on no image is computed here. The page's interpreter (assets/network.js) has a
function for each kind of step and knows no shapes but those that a step carries.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from attar.report.operations import OPERATIONS, NotRunnableError, Operand, Value

FLOAT32_LIMIT = 300_000
"""Numbers stored as float32; beyond, as float16, so that the page stays small."""
LARGEST = 700_000
"""Numbers that fit into the page at all."""
IMAGE = 0
"""The value that is the input, while translating."""


@dataclass
class Program:
    """What the page needs to run a network on one image."""

    input: tuple[int, int, int]
    shift: list[float]
    scale: list[float]
    """Pixels 0..255 become (pixel - shift) * scale, for each channel."""
    steps: list[dict[str, Any]]
    constants: list[Tensor]
    """The value with number i is the constant i, the image has the number after the last."""
    output: int

    @property
    def numbers(self) -> int:
        """How many numbers the constants hold."""
        return sum(constant.numel() for constant in self.constants)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the constants as base64 of little-endian numbers."""
        half = self.numbers > FLOAT32_LIMIT
        flat = torch.cat([constant.flatten() for constant in self.constants]) if self.constants else torch.zeros(0)
        numbers = flat.to(torch.float16 if half else torch.float32).numpy()
        return {
            "input": list(self.input),
            "shift": self.shift,
            "scale": self.scale,
            "steps": self.steps,
            "output": self.output,
            "sizes": [constant.numel() for constant in self.constants],
            "precision": "float16" if half else "float32",
            "numbers": base64.b64encode(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()).decode(),
        }


def to_program(network: nn.Module, size: Sequence[int], shift: Sequence[float], scale: Sequence[float]) -> Program:
    """Translate a classifier.

    Args:
        network: takes float32 (B, C, H, W), gives logits (B, classes); left as it is.
        size: (C, H, W).
        shift, scale: for each channel, how pixels 0..255 are normalised.

    Raises:
        NotRunnableError: it cannot be captured, has an operation that the interpreter lacks, or is too large for a page.
    """
    count = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    if count > LARGEST:
        raise NotRunnableError(f"its {count:,} numbers are more than the {LARGEST:,} that fit into this page")
    channels, height, width = size
    translator = Translator((channels, height, width))
    exported = capture(network, translator.size)
    with torch.no_grad():
        translator.run(exported)
    translator.fold()
    return translator.program(translator.size, shift, scale)


def capture(network: nn.Module, size: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The network's operations for one image, in eval mode; modes and random state are as before."""
    modes = [(module, module.training) for module in network.modules()]
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    example = torch.zeros(1, *size, dtype=weight.dtype, device=weight.device)
    random = torch.random.get_rng_state()
    try:
        network.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network, (example,), strict=False)
    except Exception as error:  # whatever stands in the way, the page does without
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotRunnableError(f"torch.export cannot capture it: {lines[0]:.200}") from error
    finally:
        torch.random.set_rng_state(random)
        for module, mode in modes:
            module.training = mode


class Translator:
    """Goes through the captured operations in order; `found` holds what each has become."""

    def __init__(self, size: tuple[int, int, int]) -> None:
        self.size = size
        self.found: dict[Node, Any] = {}
        self.steps: list[dict[str, Any]] = []
        self.constants: dict[int, Tensor] = {}
        """By the number of the value; float64."""
        self.next = IMAGE + 1
        self.output = IMAGE

    def run(self, exported: torch.export.ExportedProgram) -> None:
        """Translate all nodes; raises NotRunnableError at the first that cannot be."""
        signature = exported.graph_signature
        tensors = {**exported.state_dict, **exported.constants}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in names:
                    tensor = tensors[names[node.name]].detach().cpu()
                    self.found[node] = tensor.float() if tensor.is_floating_point() else tensor
                else:
                    self.found[node] = Value(IMAGE, (1, *self.size))
            elif node.op == "call_function":
                self.found[node] = self.call(node)
            elif node.op == "output":
                self.output = self.logits(node.args[0])

    def logits(self, results: Any) -> int:
        values = [self.found[node] for node in torch.utils._pytree.tree_leaves(results) if isinstance(node, Node)]
        if len(values) != 1 or not isinstance(values[0], Value) or len(values[0].shape) != 2:
            raise NotRunnableError("it does not give one tensor of logits")
        return values[0].id

    def call(self, node: Node) -> Any:
        """One operation: done now if it depends on no image, a step of the program otherwise."""
        args, kwargs = torch.utils._pytree.tree_map(
            lambda a: self.found[a] if isinstance(a, Node) else a, (tuple(node.args), dict(node.kwargs))
        )
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, Value) for leaf in leaves):
            return node.target(*args, **kwargs)  # type: ignore[operator]
        target: Any = node.target
        if not hasattr(target, "_schema"):
            return target(*args)  # getitem on what a split gave
        name = target._schema.name.removeprefix("aten::")
        if any(alias.alias_info and alias.alias_info.is_write for alias in target._schema.arguments):
            self.check_alone(node)
            name = name.removesuffix("_")
        if name in OPERATIONS:
            result: Any = OPERATIONS[name](self, *args, **kwargs)
        elif all(returned.alias_info for returned in target._schema.returns):
            result = self.view(target, *args, **kwargs)
        else:
            raise NotRunnableError(f"the page's interpreter has no operation {name!r}")
        if isinstance(result, Value) and result.shape != tuple(node.meta["val"].shape):
            raise NotRunnableError(f"the operation {name!r} is used in a way that the page's interpreter does not know")
        return result

    def check_alone(self, node: Node) -> None:
        """Raise if something reads a tensor, or a part of it, after it was written over: steps never write over."""
        order = {other: i for i, other in enumerate(node.graph.nodes)}
        written = node.args[0]
        if any(order[user] > order[node] for user in getattr(written, "users", ())) or (
            isinstance(written, Node)
            and is_view(written)
            and any(order[user] > order[node] for user in written.args[0].users)  # type: ignore[union-attr]
        ):
            raise NotRunnableError("it writes over a tensor that it reads again later")

    def view(self, target: Callable[..., Any], value: Value, *args: Any, **kwargs: Any) -> Any:
        """Data movement: torch says where each element lies; nothing is copied where the order stays."""
        base = torch.empty(value.shape, device="meta")
        results = target(base, *args, **kwargs)
        if isinstance(results, Tensor):
            return self.moved(value, results)
        return [self.moved(value, result) for result in results]

    def moved(self, value: Value, seen: Tensor) -> Value:
        shape = tuple(seen.shape)
        if seen.is_contiguous() and seen.numel() == torch.Size(value.shape).numel():
            return Value(value.id, shape)
        return self.step("strided", [value], shape, strides=list(seen.stride()), offset=seen.storage_offset())

    def step(self, kind: str, inputs: Sequence[Value | None], shape: Sequence[int], **attributes: Any) -> Value:
        """Add a step; its result."""
        result = Value(self.next, tuple(shape))
        self.next += 1
        ids = [None if value is None else value.id for value in inputs]
        self.steps.append({"kind": kind, "in": ids, "out": result.id, "shape": list(shape), **attributes})
        return result

    def value(self, operand: Operand) -> Value:
        """What a step can read: numbers and tensors become constants of the program."""
        if isinstance(operand, Value):
            return operand
        tensor = torch.as_tensor(operand).detach().double().cpu()
        result = Value(self.next, tuple(tensor.shape))
        self.next += 1
        self.constants[result.id] = tensor
        return result

    def fold(self) -> None:
        """Let convolutions do the affine step that alone follows them: batch norm costs nothing."""
        users: dict[int, int] = {}
        for step in self.steps:
            for used in step["in"]:
                users[used] = users.get(used, 0) + 1
        makers = {step["out"]: step for step in self.steps if step["kind"] == "conv"}
        for step in [step for step in self.steps if step["kind"] == "affine"]:
            before, scale, shift = step["in"]
            conv = makers.get(before)
            if conv is None or users[before] > 1:
                continue
            _, weight, bias = conv["in"]
            factor = self.constants[scale]
            old = self.constants[bias] if bias is not None else torch.zeros_like(factor)
            conv["in"][1] = self.value(self.constants[weight] * factor.view(-1, 1, 1, 1)).id
            conv["in"][2] = self.value(old * factor + self.constants[shift]).id
            conv["out"] = step["out"]
            self.steps.remove(step)

    def program(self, size: tuple[int, int, int], shift: Sequence[float], scale: Sequence[float]) -> Program:
        """The steps numbered anew: used constants, the image, the steps' results; each step says what may go after it."""
        used = sorted({i for step in self.steps for i in step["in"] if i in self.constants})
        number = {old: new for new, old in enumerate([*used, IMAGE, *(step["out"] for step in self.steps)])}
        last: dict[int, int] = {}
        for i, step in enumerate(self.steps):
            step["in"] = [None if old is None else number[old] for old in step["in"]]
            step["out"] = number[step["out"]]
            last.update({value: i for value in step["in"] if value is not None and value >= len(used)})
        output = number[self.output]
        for i, step in enumerate(self.steps):
            step["free"] = [value for value, end in last.items() if end == i and value != output]
        constants = [self.constants[old] for old in used]
        return Program(size, list(shift), list(scale), self.steps, constants, output)


def is_view(node: Node) -> bool:
    """Whether the node's result shares memory with its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(returned.alias_info for returned in schema.returns) and bool(node.args)
