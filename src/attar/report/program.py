"""A network as a list of plain steps that the report's page can run: captured, made static, constants folded.

The network is captured for one image (`torch.export`), so that every shape is known. Whatever only moves data becomes a
strided copy, or nothing; what depends on no image is computed here. The page's interpreter (assets/network.js) has a
function for each kind of step and knows no shapes but those that a step carries.
"""

from __future__ import annotations

import base64
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from attar.artifact.weights import own_tensors
from attar.models import exporter_quiet, in_mode
from attar.report.operations import OPERATIONS, NotRunnableError, Operand, Value

FLOAT32_LIMIT = 300_000
"""Numbers stored as float32; beyond, as float16, so that the page stays small."""
LARGEST = 700_000
"""Numbers that fit into the page; those of a larger network stay in the weights' file, for the page to be given."""
KNOWN_LIMIT = 60_000
"""Numbers that are computed now, of a network whose weights stay in their file; larger ones the page computes."""
GIVES_ITSELF = ("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::type_as")
"""Operations that may give their input itself, though their schema does not say so."""
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
    constants: list[Tensor | str]
    """The value with number i is the constant i, the image has the number after the last. A text names a tensor of the
    weights' file."""
    output: int

    @property
    def inside(self) -> list[Tensor]:
        """The constants that the page holds itself."""
        return [constant for constant in self.constants if isinstance(constant, Tensor)]

    @property
    def numbers(self) -> int:
        """How many numbers the page holds itself."""
        return sum(constant.numel() for constant in self.inside)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the page's own constants as base64 of little-endian numbers."""
        half = self.numbers > FLOAT32_LIMIT
        flat = torch.cat([constant.flatten() for constant in self.inside]) if self.inside else torch.zeros(0)
        numbers = flat.to(torch.float16 if half else torch.float32).numpy()
        return {
            "input": list(self.input),
            "shift": self.shift,
            "scale": self.scale,
            "steps": self.steps,
            "output": self.output,
            "constants": [constant if isinstance(constant, str) else constant.numel() for constant in self.constants],
            "precision": "float16" if half else "float32",
            "numbers": base64.b64encode(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()).decode(),
        }


def to_program(
    network: nn.Module, size: Sequence[int], shift: Sequence[float], scale: Sequence[float], beside: bool = False
) -> Program:
    """Translate a classifier.

    Args:
        network: takes float32 (B, C, H, W), gives logits (B, classes); left as it is.
        size: (C, H, W).
        shift, scale: for each channel, how pixels 0..255 are normalised.
        beside: whether the page can be given the file with the network's weights: a large network is run with that.

    Raises:
        NotRunnableError: it cannot be captured, has an operation that the interpreter lacks, or is too large for a page.
    """
    count = sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers()))
    if count > LARGEST and not beside:
        raise NotRunnableError(f"its {count:,} numbers are more than the {LARGEST:,} that fit into this page")
    channels, height, width = size
    translator = Translator((channels, height, width), own_tensors(network) if count > LARGEST else {})
    exported = capture(network, translator.size)
    try:
        with torch.no_grad():
            translator.run(exported)
        translator.fold()
        program = translator.program(translator.size, shift, scale)
    except NotRunnableError:
        raise
    except Exception as error:  # what nobody foresaw must not end a run whose training is done
        raise NotRunnableError(f"its operations cannot be translated: {first_line(error)}") from error
    if program.numbers > LARGEST:
        raise NotRunnableError(f"{program.numbers:,} of its numbers are in no file and do not fit into this page")
    return program


def capture(network: nn.Module, size: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The network's operations for one image, in eval mode; modes and random state are as before."""
    weight = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    example = torch.zeros(1, *size, dtype=weight.dtype, device=weight.device)
    random = torch.random.get_rng_state()
    try:
        with in_mode(network, False), exporter_quiet(), torch.no_grad():
            return torch.export.export(network, (example,), strict=False)
    except Exception as error:  # whatever stands in the way, the page does without
        raise NotRunnableError(f"torch.export cannot capture it: {first_line(error)}") from error
    finally:
        torch.random.set_rng_state(random)


class Translator:
    """Goes through the captured operations in order, and notes what each becomes."""

    def __init__(self, size: tuple[int, int, int], file: Mapping[str, Tensor]) -> None:
        """
        Args:
            size: (C, H, W).
            file: tensors by the names that they have in the weights' file, to be read from there; empty: all are constants.
        """
        self.size = size
        self.file = {place(tensor): name for name, tensor in file.items()}
        self.names: dict[int, str] = {}
        """Name in the file, by the id of the tensor."""
        self.kept: list[Any] = []
        """Everything that was computed now, so that no id in `names` is used again."""
        self.shared: set[int] = set()
        """Where the network's own tensors lie."""
        self.steps: list[dict[str, Any]] = []
        self.constants: dict[int, Tensor | str] = {}
        """By the number of the value; float64, or the name in the weights' file."""
        self.next = IMAGE + 1
        self.output = IMAGE

    def run(self, exported: torch.export.ExportedProgram) -> None:
        """Translate all nodes; raises NotRunnableError at the first that cannot be."""
        signature = exported.graph_signature
        tensors = {**exported.state_dict, **exported.constants}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        inputs = [
            self.known(tensors[names[node.name]]) if node.name in names else Value(IMAGE, (1, *self.size))
            for node in exported.graph.nodes
            if node.op == "placeholder"
        ]
        self.output = self.logits(self.graph(exported.graph_module, inputs))

    def graph(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """Translate a graph whose placeholders are these; what its outputs have become."""
        found: dict[Node, Any] = {}
        given = iter(inputs)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                found[node] = next(given)
            elif node.op == "get_attr":
                found[node] = getattr(module, str(node.target))
            else:
                args, kwargs = torch.utils._pytree.tree_map(
                    lambda a: found[a] if isinstance(a, Node) else a, (tuple(node.args), dict(node.kwargs))
                )
                if node.op == "output":
                    return args[0]
                if writes_over(node.target):
                    self.check_alone(node, args)
                found[node] = self.call(node.target, args, kwargs)
                self.kept.append(found[node])
        raise NotRunnableError("its graph has no output")

    def known(self, tensor: Tensor) -> Tensor:
        """A tensor of the network, as the operations take it."""
        found = tensor.detach().cpu()
        found = found.float() if found.is_floating_point() else found.view_as(found)
        self.kept.append(found)
        self.shared.add(found.untyped_storage().data_ptr())
        if place(tensor) in self.file:
            self.names[id(found)] = self.file[place(tensor)]
        return found

    def logits(self, results: Any) -> int:
        values = [leaf for leaf in torch.utils._pytree.tree_leaves(results) if leaf is not None]
        if len(values) != 1 or not isinstance(values[0], Value) or len(values[0].shape) != 2:
            raise NotRunnableError("it does not give one tensor of logits")
        return values[0].id

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation: done now if it depends on no image, steps of the program otherwise."""
        if isinstance(
            target, torch._ops.HigherOrderOperator
        ):  # a part under another autocast: the page has float32 only
            part = next((i for i, a in enumerate(args) if isinstance(a, torch.fx.GraphModule)), None)
            if part is None:
                raise NotRunnableError(f"the page's interpreter has no operation {target.name()!r}")
            if any(writes_over(node.target) and root(node).op == "placeholder" for node in args[part].graph.nodes):
                raise NotRunnableError("a part of it under another autocast writes over a tensor that it reads")
            return self.graph(args[part], args[part + 1 :])
        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, Value) for leaf in leaves):
            result = target(*args, **kwargs)
            if not any(id(leaf) in self.names for leaf in leaves) or small(result):
                return result
            args = tuple(
                self.value(arg) if id(arg) in self.names or (i == 0 and isinstance(arg, Tensor)) else arg
                for i, arg in enumerate(args)
            )
        if not hasattr(target, "_schema"):
            return target(*args)  # getitem on what a split gave
        return self.operation(target, args, kwargs)

    def operation(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation of ATen on values: one of the table's, data movement, or what torch itself makes of it."""
        schema = target._schema
        name = schema.name.removeprefix("aten::")
        if writes_over(target):
            name = name.removesuffix("_")
        if name in OPERATIONS:
            try:
                return OPERATIONS[name](self, *args, **kwargs)
            except TypeError as error:  # an argument that the table's function does not have
                raise NotRunnableError(f"the page's interpreter has no operation {name!r} of this kind") from error
        if schema.returns and all(returned.alias_info for returned in schema.returns) and not writes_over(target):
            return self.view(target, *args, **kwargs)
        if not schema.returns:
            return None  # an assertion
        return self.decomposed(target, args, kwargs)

    def decomposed(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What an operation is made of, by torch's own account, translated in its place."""
        leaves, structure = torch.utils._pytree.tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Value | Tensor)]

        def run(*tensors: Tensor) -> Any:
            own = [*leaves]
            for i, tensor in zip(places, tensors):
                own[i] = tensor
            again, named = torch.utils._pytree.tree_unflatten(own, structure)
            return target(*again, **named)

        examples = [
            leaf if isinstance(leaf, Tensor) else torch.zeros(leaf.shape) for leaf in map(leaves.__getitem__, places)
        ]
        made = make_fx(run, decomposition_table=decompositions())(*examples)
        if any(node.target is target for node in made.graph.nodes):
            raise NotRunnableError(
                f"the page's interpreter has no operation {target._schema.name.removeprefix('aten::')!r}"
            )
        return self.graph(made, [leaves[i] for i in places])

    def check_alone(self, node: Node, args: tuple[Any, ...]) -> None:
        """Raise if a node writes over a tensor of which anything is read again but the result: steps never write over."""
        if not any(isinstance(leaf, Value) for leaf in torch.utils._pytree.tree_leaves(args)):
            # written over now, as torch does; the network's own tensors must stay as they are
            if args[0].untyped_storage().data_ptr() in self.shared:
                raise NotRunnableError("it writes over its own weights")
            return
        order = {other: i for i, other in enumerate(node.graph.nodes)}
        stale = [root(node)]
        for alias in stale:  # grows: views, their views ..., but not those of the result
            stale += [user for user in alias.users if user is not node and viewed(user) is alias]
        if any(order[user] > order[node] for alias in stale for user in alias.users):
            raise NotRunnableError("it writes over a tensor that it reads again later")

    def view(self, target: Callable[..., Any], value: Value, *args: Any, **kwargs: Any) -> Any:
        """Data movement: torch says where each element lies; nothing is copied where the order stays."""
        base = torch.empty(value.shape, device="meta")
        others = [torch.empty(arg.shape, device="meta") if isinstance(arg, Value) else arg for arg in args]
        results = target(base, *others, **kwargs)
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
        tensor = torch.as_tensor(operand).detach()
        result = Value(self.next, tuple(tensor.shape))
        self.next += 1
        self.constants[result.id] = self.names[id(operand)] if id(operand) in self.names else tensor.double().cpu()
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
            if conv is None or users[before] > 1 or conv["shape"][:2] != step["shape"][:2]:
                continue  # a reshape between them keeps the value's number, but gives it other channels
            _, weight, bias = (self.constants.get(used) for used in conv["in"])
            factor, added = self.constants[scale], self.constants[shift]
            old = torch.zeros(()) if conv["in"][2] is None else bias
            if not (
                isinstance(weight, Tensor)
                and isinstance(old, Tensor)
                and isinstance(factor, Tensor)
                and isinstance(added, Tensor)
            ):
                continue  # they are in the weights' file, or computed on the page
            conv["in"][1] = self.value(weight * factor.view(-1, 1, 1, 1)).id
            conv["in"][2] = self.value(old * factor + added).id
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


@cache
def decompositions() -> Any:
    """What torch's operations are made of, down to its core operations."""
    return core_aten_decompositions()


def writes_over(target: Any) -> bool:
    """Whether an operation writes over one of its inputs."""
    schema = getattr(target, "_schema", None)
    return schema is not None and any(a.alias_info and a.alias_info.is_write for a in schema.arguments)


def first_line(error: Exception) -> str:
    """Of what an error says, for people; its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]:.200}"


def place(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    """What tells a network's tensors apart."""
    return tensor.data_ptr(), tuple(tensor.shape)


def small(results: Any) -> bool:
    """Whether an operation's results may stand in the page."""
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    return all(tensor.numel() <= KNOWN_LIMIT for tensor in tensors)


def viewed(node: Node) -> Node | None:
    """What the node's result may share memory with; None where it is new."""
    if not node.args or not isinstance(base := node.args[0], Node):
        return None
    if node.target is operator.getitem:
        return base if viewed(base) else None  # of a split
    schema = getattr(node.target, "_schema", None)
    if schema is None or not (schema.name in GIVES_ITSELF or any(returned.alias_info for returned in schema.returns)):
        return None
    return base


def root(node: Node) -> Node:
    """The tensor that the node's result is in the end a view of."""
    while base := viewed(node):
        node = base
    return node
