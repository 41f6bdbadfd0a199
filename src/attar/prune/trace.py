"""A quick trace: the operations of one real forward, as `torch.export` names them, in a hundredth of its time.

The network is run twice, the second time with one sample more: what differs is the batch. Anything that this could get
wrong (a number read out of a tensor, data moved behind the dispatcher's back, code that looks at the batch) raises
`Untraceable`, and the caller exports instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._dispatch.python import enable_pre_dispatch, enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from attar.prune.batch import batched, longer
from attar.prune.modules import named_tensors
from attar.prune.undisturbed import caches_apart, known_dataclasses, left_alone, paths_noted

PATIENCE = 1.0
"""Seconds of CPU that one forward may take; `torch.export`, which does not compute, is quicker for what takes longer."""
BEHIND = frozenset(
    [
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.__array__,
        torch.Tensor.__deepcopy__,
        torch.Tensor.data.__get__,  # type: ignore[attr-defined]
        torch.Tensor.data.__set__,  # type: ignore[attr-defined]
        torch.Tensor.data_ptr,
        torch.Tensor.untyped_storage,
        torch.Tensor.storage,
        torch.Tensor.apply_,
        torch.Tensor.map_,
    ]
)
"""Ways around the dispatcher: what they give would look like a constant."""
KINDS = (torch.Tensor, nn.Parameter, nn.Buffer)


class Untraceable(RuntimeError):
    """The network does something that this trace cannot tell."""


@dataclass(frozen=True)
class Ref:
    """A tensor of the trace: where it comes from (`tensor`, `constant`, `input` or `step`), its number or name there, and
    its place among a step's results."""

    kind: str
    key: Any
    item: int = -1


def refs(tree: Any) -> Iterator[Ref]:
    """The references in an operation's arguments or the network's answer, in order."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from refs(item)
    elif isinstance(tree, dict):
        yield from refs(list(tree.values()))


@dataclass
class Step:
    """One operation, with references where its arguments are tensors."""

    function: Any
    args: Any
    kwargs: dict[str, Any]
    shapes: list[tuple[int, ...]]
    dtypes: list[torch.dtype]
    many: bool
    """Whether it gives a list."""
    stack: tuple[tuple[str, str], ...]
    """(path, class) of the modules around it, outermost first."""


@dataclass
class Trace:
    """What one forward did."""

    inputs: list[Any]
    steps: list[Step] = field(default_factory=list)
    constants: list[torch.Tensor] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    specs: tuple[Any, Any] = (None, None)
    asks: bool = False
    """Whether the code asked if a tensor is true: it may go another way with other inputs."""


class _Recorder(ProxyTorchDispatchMode):
    """Writes down operations above autograd, where they are whole; sits in the slot that torch keeps for such tracers."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles in here; torch would load its compiler, a second or more, to keep it out

    def __init__(self, names: dict[int, str], leaves: list[Any], stack: list[tuple[str, str]]) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.enter_stack = []
        self.trace, self.stack = Trace(leaves), stack
        self.names, self.until = names, 0.0
        self.refs: dict[int, Ref] = {}
        self.alive: list[torch.Tensor] = []
        self.storages: set[int] = set()
        self.made: dict[int, torch.Tensor] = {}
        """Storage -> what an operation made out of nothing; torch may hand another object of it to the network."""
        for number, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                self._known(leaf, Ref("input", number))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.until:  # torch loads a good deal before the first operation gets here
            self.until = time.thread_time() + PATIENCE
        if torch.Tag.data_dependent_output in func.tags or _sized_by_data(func, args):
            raise Untraceable(f"{func} reads numbers out of a tensor")
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise Untraceable("a transform of functions")
        seen = self._read(args), {key: self._read(item) for key, item in kwargs.items()}
        if func._schema.is_mutable:
            self._check_written(func, args, kwargs)
        with torch._C._DisablePythonDispatcher():  # what an operation does inside is not written down
            found = func(*args, **kwargs)
        many = isinstance(found, list | tuple)
        results = list(found) if many else [found]
        tensors = [item for item in results if isinstance(item, torch.Tensor)]
        if len(tensors) < len(results):
            if tensors:
                raise Untraceable(f"{func} gives tensors and other things")
            self.trace.asks |= func is torch.ops.aten.is_nonzero.default
            return found
        number = len(self.trace.steps)
        shapes, dtypes = [tuple(t.shape) for t in tensors], [t.dtype for t in tensors]
        self.trace.steps.append(Step(func, *seen, shapes, dtypes, many, tuple(self.stack)))
        for place, tensor in enumerate(tensors):
            self._known(tensor, Ref("step", number, place if many else -1))
            if not any(refs(seen)):
                self.made[tensor.untyped_storage()._cdata] = tensor
        if number % 16 == 0 and time.thread_time() > self.until:
            raise Untraceable("the forward takes long")
        return found

    def _known(self, tensor: torch.Tensor, ref: Ref) -> None:
        self.refs[id(tensor)] = ref
        self.alive.append(tensor)  # so that no other gets its id
        self.storages.add(tensor.untyped_storage()._cdata)

    def _read(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return self._ref(item)
        if isinstance(item, list | tuple):
            return [self._read(part) for part in item]
        return item

    def _ref(self, tensor: torch.Tensor) -> Ref:
        found = self.refs.get(id(tensor))
        if found is not None:
            if self.made and found.kind == "step":
                self.made.pop(tensor.untyped_storage()._cdata, None)
            return found
        if type(tensor) not in KINDS:
            raise Untraceable(f"a {type(tensor).__name__}")
        if id(tensor) in self.names:
            self._known(tensor, Ref("tensor", self.names[id(tensor)]))
        else:
            storage = tensor.untyped_storage()._cdata
            twin = self.made.pop(storage, None)
            if twin is not None and twin.shape == tensor.shape and twin.stride() == tensor.stride():
                self._known(tensor, self.refs[id(twin)])
                return self.refs[id(tensor)]
            if storage in self.storages:
                raise Untraceable("a tensor that no operation gave")
            self._known(tensor, Ref("constant", len(self.trace.constants)))
            self.trace.constants.append(tensor.clone())
        return self.refs[id(tensor)]

    def _check_written(self, func: Any, args: Any, kwargs: Any) -> None:
        """Writing into a parameter or a tensor of the user's would outlast the trace."""
        for place, argument in enumerate(func._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            if written and isinstance(given, torch.Tensor):
                ref = self.refs[id(given)]
                if ref.kind == "constant" or (ref.kind == "tensor" and isinstance(given, nn.Parameter)):
                    raise Untraceable(f"{func} writes into {ref.key}")


class _NothingBehind(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in BEHIND:
            raise Untraceable(f"{getattr(func, '__name__', func)} goes around operations")
        return func(*args, **(kwargs or {}))


def _sized_by_data(func: Any, args: Any) -> bool:
    """Whether the shape of the result depends on the numbers in a tensor."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func.name() != "aten::index.Tensor":
        return True
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def run(
    model: nn.Module,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    watch: Callable[[Trace], TorchFunctionMode] = lambda trace: _NothingBehind(),
    places: bool = True,
) -> Trace:
    """One forward, written down. The network, its buffers and all random states are as before.

    Args:
        watch: sees the functions that the network calls, beside what was written down so far.
        places: whether each step tells the modules around it.

    Raises:
        Exception: the network does what this trace cannot tell, or cannot run.
    """
    if any(nn.parameter.is_lazy(tensor) for tensor in named_tensors(model).values()):
        raise Untraceable("a parameter without a shape yet")
    leaves, inputs = tree_flatten((arguments, keywords))
    leaves = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    arguments, keywords = tree_map(lambda leaf: leaf, torch.utils._pytree.tree_unflatten(leaves, inputs))
    stack: list[tuple[str, str]] = []
    with ExitStack() as around:
        around.enter_context(caches_apart(model))
        around.enter_context(left_alone(model))
        names = {id(tensor): name for name, tensor in named_tensors(model).items()}
        if places:
            around.enter_context(paths_noted(model, stack))
        recorder = _Recorder(names, leaves, stack)
        around.enter_context(torch.no_grad())
        around.enter_context(enable_python_dispatcher())
        around.enter_context(enable_pre_dispatch())
        around.enter_context(recorder)
        around.enter_context(watch(recorder.trace))
        found = model(*arguments, **keywords)
    known_dataclasses(found)
    results, outputs = tree_flatten(found)
    trace = recorder.trace
    trace.specs = inputs, outputs
    for result in results:
        if not isinstance(result, torch.Tensor | int | float | bool | str | None):
            raise Untraceable(f"the network answers with a {type(result).__name__}")
        trace.outputs.append(recorder._ref(result) if isinstance(result, torch.Tensor) else result)
    return trace


def one_more(arguments: Any, keywords: Any) -> tuple[Any, int] | None:
    """The call with one sample more, and how many it had; None where its tensors do not share their first dimension."""
    leaves = [leaf for leaf in tree_leaves((arguments, keywords)) if batched(leaf)]
    if len({leaf.shape[0] for leaf in leaves}) != 1 or leaves[0].shape[0] < 2:
        return None
    return tree_map(longer, (arguments, keywords)), leaves[0].shape[0]


class Batch(int):
    """A number of the trace that is this many times the batch."""


def compared(first: Trace, second: Trace, batch: int) -> list[list[frozenset[int]]]:
    """Mark in `first` every number that is a multiple of the batch, by a second trace of one sample more.

    Returns the free dimensions of every step's results.

    Raises:
        Untraceable: the two differ in any other way.
    """
    if len(first.steps) != len(second.steps) or first.outputs != second.outputs:
        raise Untraceable("what the network does depends on the batch")
    same = len(first.constants) == len(second.constants) and all(map(torch.equal, first.constants, second.constants))
    if not same:
        raise Untraceable("a constant depends on the batch")
    frees = []
    for a, b in zip(first.steps, second.steps):
        if a.function is not b.function or len(a.shapes) != len(b.shapes):
            raise Untraceable("what the network does depends on the batch")
        a.args, a.kwargs = _marked(a.args, b.args, batch), _marked(a.kwargs, b.kwargs, batch)
        frees.append([_free(one, two) for one, two in zip(a.shapes, b.shapes)])
    return frees


def _free(first: tuple[int, ...], second: tuple[int, ...]) -> frozenset[int]:
    if len(first) != len(second):
        raise Untraceable("a rank depends on the batch")
    return frozenset(d for d, (a, b) in enumerate(zip(first, second)) if a != b)


def _marked(first: Any, second: Any, batch: int) -> Any:
    if isinstance(first, list):
        if not isinstance(second, list) or len(first) != len(second):
            raise Untraceable("an argument depends on the batch")
        return [_marked(a, b, batch) for a, b in zip(first, second)]
    if isinstance(first, dict):
        return {key: _marked(item, second.get(key), batch) for key, item in first.items()}
    if type(first) is int and type(second) is int and first != second:
        if first % batch or first // batch * (batch + 1) != second:
            raise Untraceable("a number that is no multiple of the batch depends on it")
        return Batch(first // batch)
    if type(first) is not type(second) or (first != second and first == first):
        raise Untraceable("an argument depends on the batch")
    return first
