"""Coupling: from captured graphs to the `Structure` that every other part of the engine reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from attar.prune.axes import Axes
from attar.prune.capture import Captured, Example, capture
from attar.prune.labels import Labels, Value
from attar.prune.macs import mac_terms
from attar.prune.modules import all_modules, named_tensors
from attar.prune.propagate import Walk, tensor_values
from attar.prune.solve import Solution, solve
from attar.prune.structure import Group, Member, Structure, Term

POLICIES = ("normal", "strict")
FOLLOWERS = ("batch_norm", "norm")
UNREAD = "no operation of the example's call reads it"
ASKS = "the code asks whether a tensor is true: only the way that it goes with the example was looked at and proved"


@dataclass
class Coupled:
    """A captured network with its labels; all in the numbering of the network as captured."""

    captured: Captured
    walks: list[Walk]
    structure: Structure
    places: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]
    """(tensor, dim) -> (group, unit) of every index along it, -1 where none."""
    label_group: np.ndarray
    """int64 (labels,): the group of each label, -1 where none."""
    label_unit: np.ndarray
    """int64 (labels,): the unit in that group."""
    reports: tuple[str, ...]
    """Operations that attar has no rule for, tensors that nothing reads, and what could not be captured."""

    def label_kept(self, kept: dict[int, torch.Tensor]) -> torch.Tensor:
        """bool (labels,): which labels are left when the groups keep these units."""
        sizes = [group.size for group in self.structure.groups]
        masks = [kept[i].numpy() if i in kept else np.ones(size, dtype=bool) for i, size in enumerate(sizes)]
        return torch.from_numpy(np.concatenate([*masks, np.ones(1, dtype=bool)])[self._places_in_masks])

    @cached_property
    def _places_in_masks(self) -> np.ndarray:
        """int64 (labels,): where a label's unit stands when all groups' units are in one line; labels of none at the end."""
        first = np.cumsum([0, *(group.size for group in self.structure.groups)])
        return np.where(self.label_group < 0, first[-1], first[self.label_group] + self.label_unit)

    def rows_left(self, tensor: str, masks: dict[int, torch.Tensor]) -> torch.Tensor:
        """int64: indices along a tensor's first dimension, as captured, that these masks leave."""
        if (tensor, 0) not in self.places:
            return torch.arange(self.walks[0].tensors[tensor].shape[0])
        group, unit = (torch.from_numpy(array) for array in self.places[tensor, 0])
        left = torch.ones(len(group), dtype=torch.bool)
        for number in set(group[group >= 0].tolist()):
            left[group == number] = masks[number][unit[group == number]]
        return torch.nonzero(left)[:, 0]


def couple_model(
    model: nn.Module, example: Example, protect: Sequence[str] = (), policy: str = "normal", quick: bool = True
) -> Coupled:
    """Capture the network and find its units.

    Args:
        protect: names or patterns (`layer1.*`) of modules or tensors whose units must all stay.
        policy: `normal` lets units go that a norm or softmax mixes, and notes it; `strict` keeps them.
        quick: see `capture`.

    Raises:
        ValueError: an unknown policy, a pattern that matches nothing, or a network that cannot be captured (`CaptureError`).
    """
    if policy not in POLICIES:
        raise ValueError(f"there is no policy {policy!r}; attar has {' and '.join(POLICIES)}")
    captured = capture(model, example, quick)
    tensors = {name: tensor for name, tensor in named_tensors(model).items()}
    labels = Labels()
    values = tensor_values(labels, tensors)
    by_alias = {name: values[first] for name, first in captured.aliases.items()}
    _protect(labels, by_alias, model, protect)
    walks = []
    for graph in captured.graphs:
        walk = Walk(labels, by_alias, graph, policy == "strict")
        walk.run()
        walks.append(walk)
    _fix_unread(labels, values, captured)
    return _assemble(captured, walks, labels, solve(labels), tensors, model)


def _fix_unread(labels: Labels, values: dict[str, Value], captured: Captured) -> None:
    """Tensors that no operation reads stay whole: nothing tells which of their indices belong together, or to what."""
    read = {
        captured.aliases[graph.tensors[node.name]]
        for graph in captured.graphs
        for node in graph.module.graph.nodes
        if node.op == "placeholder" and node.name in graph.tensors and node.users
    }
    homes: dict[str, list[str]] = {}
    for name in values:
        homes.setdefault(name.rpartition(".")[0], []).append(name)
    for module, names in homes.items():
        unread = [name for name in names if name not in read and values[name].planes]
        labels.where = module if module and not read & set(names) else ", ".join(unread)
        for name in unread:
            for plane in values[name].planes:
                labels.fix(plane.ids, UNREAD)
    labels.where = ""


def _protect(labels: Labels, values: dict[str, Value], model: nn.Module, patterns: Sequence[str]) -> None:
    """Fix what the patterns name. `values`, and the modules, are taken by all their names: what is shared has several."""
    modules = [name for name in all_modules(model) if name]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        chosen = [n for n in values if fnmatchcase(n, pattern) or n == pattern or n.startswith(pattern + ".")]
        inside = [m for m in modules if fnmatchcase(m, pattern)]
        chosen += [n for n in values if any(n.startswith(m + ".") for m in inside)]
        if not chosen:
            raise ValueError(f"protect: {pattern!r} matches no module or tensor of {type(model).__name__}")
        for name in chosen:
            for plane in values[name].planes:
                labels.fix(plane.ids, "asked")


def _assemble(
    captured: Captured,
    walks: list[Walk],
    labels: Labels,
    solution: Solution,
    tensors: dict[str, torch.Tensor],
    model: nn.Module,
) -> Coupled:
    starts = {(tensor, dim): (first, number) for first, number, tensor, dim in labels.owners}
    producers = _producers(labels, solution, starts)
    families = _families(solution, producers)
    label_group = np.full(labels.count, -1)
    label_unit = np.full(labels.count, -1)
    names: list[Any] = []
    rows: list[Any] = []
    reasons: list[Any] = []
    notes: list[Any] = []
    for name, units in families:
        order = np.sort(units)
        number = len(names)
        position = np.full(labels.count, -1)
        position[order] = np.arange(len(order))
        mine = position[solution.unit] >= 0
        label_group[mine], label_unit[mine] = number, position[solution.unit[mine]]
        row = solution.row[order]
        names.append(name)
        rows.append(
            None
            if (row < 0).all() or len(np.unique(row)) == 1
            else torch.from_numpy(np.unique(row, return_inverse=True)[1])
        )
        reasons.append(solution.reason.get(int(order[0]), ""))
        notes.append(tuple(dict.fromkeys(solution.mixed[u] for u in order.tolist() if u in solution.mixed)))
    places = {}
    owners: dict[tuple[int, bytes], torch.Tensor] = {}  # members with their units in the same places share one tensor
    members: list[list[Member]] = [[] for _ in names]
    for (tensor, dim), (first, number) in starts.items():
        group, unit = label_group[first : first + number], label_unit[first : first + number]
        if (group < 0).all():
            continue
        places[tensor, dim] = (group, unit)
        for home in np.unique(group[group >= 0]).tolist():
            produces, kind = _role(labels.roles.get((tensor, dim), set()))
            own = np.where(group == home, unit, -1)
            owned = owners.setdefault((home, own.tobytes()), torch.from_numpy(own))
            members[home].append(Member(tensor, dim, owned, produces, kind))
    groups = tuple(
        Group(
            name, int((label_group == i).any() and label_unit[label_group == i].max() + 1), tuple(m), row, reason, note
        )
        for i, (name, m, row, reason, note) in enumerate(zip(names, members, rows, reasons, notes))
    )
    axes = Axes(groups, label_group, label_unit)
    structure = Structure(
        groups,
        tuple(_tensor_terms(model, tensors, axes, starts, parameters_only=True)),
        tuple(_tensor_terms(model, tensors, axes, starts, parameters_only=False)),
        tuple(mac_terms(walks[0], axes)),
        {name: first for name, first in captured.aliases.items() if name != first},
    )
    unknown = [f.reason for f in labels.fixed if "no rule" in f.reason or f.reason.startswith(UNREAD)]
    errors = [captured.training_error] if captured.training_error else []
    asks = [ASKS] if any(graph.asks for graph in captured.graphs) else []
    reports = tuple(dict.fromkeys([*unknown, *errors, *asks]))
    return Coupled(captured, walks, structure, places, label_group, label_unit, reports)


def _role(found: set[tuple[bool, str]]) -> tuple[bool, str]:
    """One role for a tensor's dimension: making units comes before reading them; bare parameters are `pointwise`."""
    if not found:
        return False, "pointwise"
    return max(found, key=lambda role: (role[0], role[1] not in FOLLOWERS, role[1]))


def _producers(labels: Labels, solution: Solution, starts: dict) -> dict[int, list[tuple[str, int]]]:
    """Unit -> the tensors that make it, in the order of the network; bare parameters where no operation makes it."""
    made: dict[int, list[tuple[str, int]]] = {}
    bare: dict[int, list[tuple[str, int]]] = {}
    for key, (first, number) in starts.items():
        produces, kind = _role(labels.roles.get(key, set()))
        if kind in FOLLOWERS or (not produces and key in labels.roles):
            continue
        target = made if produces else bare
        for unit in np.unique(solution.unit[first : first + number]).tolist():
            target.setdefault(unit, []).append(key)
    used = set(made)
    return {**{u: keys for u, keys in bare.items() if u not in used and u not in solution.reason}, **made}


def _families(solution: Solution, producers: dict[int, list[tuple[str, int]]]) -> list[tuple[str, np.ndarray]]:
    """Groups as (name, units): units that the same tensors make, and all units of a family of rows."""
    found: dict[Any, list[int]] = {}
    for unit, keys in producers.items():
        family = int(solution.family[unit])
        fixed = unit in solution.reason
        found.setdefault((fixed, "rows", family) if family >= 0 else (fixed, *keys), []).append(unit)
    named = [(_first(producers, units), np.array(units)) for units in found.values()]
    named.sort(key=lambda item: int(item[1].min()))
    times: dict[str, int] = {}
    result = []
    for name, units in named:
        times[name] = times.get(name, 0) + 1
        result.append((name if times[name] == 1 else f"{name}#{times[name]}", units))
    return result


def _first(producers: dict[int, list[tuple[str, int]]], units: list[int]) -> str:
    tensor, dim = producers[min(units)][0]
    return tensor if dim == 0 or tensor.rpartition(".")[2] != "weight" else f"{tensor}:{dim}"


def _tensor_terms(
    model: nn.Module, tensors: dict[str, torch.Tensor], axes: Axes, starts: dict, parameters_only: bool
) -> list[Term]:
    parameters = {id(p) for p in model.parameters()}
    saved = {id(t) for t in model.state_dict(keep_vars=True).values() if isinstance(t, torch.Tensor)}
    terms = []
    for name, tensor in tensors.items():
        if id(tensor) not in (parameters if parameters_only else saved):
            continue
        lengths = []
        for dim, size in enumerate(tensor.shape):
            if (name, dim) in starts:
                first, number = starts[name, dim]
                lengths.append(axes.of(np.arange(first, first + number)))
            else:
                lengths.append(axes.plain(size))
        scale, dtype = (1.0, None) if parameters_only else (float(tensor.element_size()), tensor.dtype)
        terms.append(Term(name, scale, tuple(lengths), dtype))
    return terms
