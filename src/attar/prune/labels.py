"""Labels: which unit every element of every tensor belongs to.

A value carries a few planes. A plane is an integer tensor of the value's rank, one element long on dimensions along which its
labels do not change, and one dimension, `cut`, along which units are removed. A weight (O, I, kh, kw) starts with one plane
for each dimension; an activation usually has one, along its channels. A plane that also changes along other dimensions (heads
x features of a head) has rows there: each row must lose the same number of units, or what is left is no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plane:
    """Labels along one dimension: `ids` has the value's length on `cut`, and its length or one elsewhere."""

    ids: torch.Tensor
    cut: int

    @property
    def rows(self) -> list[int]:
        """Dimensions other than `cut` along which labels change."""
        return [dim for dim, size in enumerate(self.ids.shape) if size > 1 and dim != self.cut]

    def row_matrix(self) -> torch.Tensor:
        """int64 (rows, length along cut)."""
        return self.ids.movedim(self.cut, -1).reshape(-1, self.ids.shape[self.cut])


@dataclass(frozen=True)
class Value:
    """A tensor of the graph as the labels see it."""

    shape: Shape
    planes: tuple[Plane, ...] = ()
    free: frozenset[int] = frozenset()
    """Dimensions of unknown length (the batch): never labelled."""
    source: frozenset[str] = frozenset()
    """Names of the tensors of the network that it is made of, if of nothing else."""
    known: torch.Tensor | None = None
    """The tensor itself, where it depends on neither inputs nor weights."""

    def plane(self, cut: int) -> Plane | None:
        return next((plane for plane in self.planes if plane.cut == cut), None)


@dataclass(frozen=True)
class Fixed:
    """Units that must stay, and why."""

    ids: torch.Tensor
    reason: str


@dataclass
class Labels:
    """Everything that was learned about labels: which are one unit, which are fixed, which are rows of one another."""

    count: int = 0
    owners: list[tuple[int, int, str, int]] = field(default_factory=list)
    """(first label, number, tensor, dim) of the labels that a tensor's dimension started with, ascending."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)
    """int64 (rows, length): every row keeps the same number."""
    mixed: list[Fixed] = field(default_factory=list)
    """Units that an operation mixes (LayerNorm, softmax over units), and which."""
    roles: dict[tuple[str, int], set[tuple[bool, str]]] = field(default_factory=dict)
    """(tensor, dim) -> {(produces, kind of operation)}."""
    where: str = ""
    """The operation and the module that is looked at, for reasons."""

    def fresh(self, number: int, tensor: str = "", dim: int = 0) -> torch.Tensor:
        """New labels, int64 (number,), owned by a tensor's dimension or by nobody."""
        ids = torch.arange(self.count, self.count + number)
        if tensor:
            self.owners.append((self.count, number, tensor, dim))
        self.count += number
        return ids

    def unite(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Labels at the same place (after broadcasting) are one unit."""
        if first is second:
            return
        first, second = torch.broadcast_tensors(*compressed_together(first, second))
        a, b = first.reshape(-1).numpy(), second.reshape(-1).numpy()
        differ = a != b
        if differ.any():
            self.pairs.append((a[differ], b[differ]))

    def unite_along(self, ids: torch.Tensor, dims: Iterable[int]) -> torch.Tensor:
        """Labels along each of `dims` become one unit; returns them one long there."""
        for dim in dims:
            if ids.shape[dim] > 1:
                first = ids.narrow(dim, 0, 1)
                self.unite(ids, first.expand_as(ids))
                ids = first
        return ids

    def fix(self, ids: torch.Tensor, reason: str) -> None:
        """These units must stay."""
        self.fixed.append(Fixed(ids.reshape(-1), f"{reason} ({self.where})" if self.where else reason))

    def mix(self, ids: torch.Tensor, what: str) -> None:
        """An operation mixes these units with one another."""
        self.mixed.append(Fixed(ids.reshape(-1), f"{what} ({self.where})" if self.where else what))

    def balance(self, plane: Plane) -> None:
        """The rows of the plane keep the same number of units."""
        if plane.rows:
            self.rows.append(plane.row_matrix())

    def owner(self, label: int) -> tuple[str, int] | None:
        """The tensor and dimension that started with this label."""
        low, high = 0, len(self.owners)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.owners[middle][0] <= label else (low, middle)
        if low and label < self.owners[low - 1][0] + self.owners[low - 1][1]:
            return self.owners[low - 1][2:]
        return None

    def role(self, value: Value, plane: Plane, produces: bool, kind: str) -> None:
        """Say how an operation of this kind uses a dimension of a weight: to make units, or to read them."""
        for label in plane.ids.movedim(plane.cut, -1).reshape(-1, plane.ids.shape[plane.cut])[:, 0].tolist()[:1]:
            found = self.owner(label)
            if found is not None and found[0] in value.source:
                self.roles.setdefault(found, set()).add((produces, kind))


def compressed(ids: torch.Tensor, keep: int = -1) -> torch.Tensor:
    """One element long on every dimension along which `ids` does not change (other than `keep`)."""
    for dim in range(ids.dim()):
        if dim == keep or ids.shape[dim] <= 1:
            continue
        first = ids.narrow(dim, 0, 1)
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids


def compressed_together(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both without the dimensions along which neither changes."""
    for dim in range(min(first.dim(), second.dim())):
        alone = first.shape[dim] == 1 == second.shape[dim]
        if first.dim() == second.dim() and not alone and _still(first, dim) and _still(second, dim):
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    return first, second


def _still(ids: torch.Tensor, dim: int) -> bool:
    return ids.shape[dim] == 1 or ids.stride(dim) == 0


def aligned(plane: Plane, rank: int) -> Plane:
    """The plane of a value broadcast to more dimensions."""
    extra = rank - plane.ids.dim()
    return Plane(plane.ids.reshape((1,) * extra + tuple(plane.ids.shape)), plane.cut + extra) if extra else plane


def normalised(labels: Labels, planes: Sequence[Plane]) -> tuple[Plane, ...]:
    """One plane for each cut dimension; what cuts along the rows of another plane is fixed, as rows stay whole."""
    best: dict[int, Plane] = {}
    for plane in planes:
        other = best.get(plane.cut)
        if other is None:
            best[plane.cut] = plane
            continue
        labels.unite(plane.ids, other.ids)
        if plane.ids.numel() < other.ids.numel():
            best[plane.cut] = plane
    rows = {dim for plane in best.values() for dim in plane.rows}
    for dim in rows & set(best):
        labels.fix(best.pop(dim).ids, "stands across the rows of other units")
    return tuple(best[cut] for cut in sorted(best))


def pointwise(labels: Labels, values: Sequence[Value], shape: Shape, free: frozenset[int]) -> Value:
    """Labels of an element-by-element operation: elements that meet are one unit; what meets an unlabelled one is fixed."""
    rank = len(shape)
    sizes = [(1,) * (rank - len(value.shape)) + value.shape for value in values]
    planes: list[Plane] = []
    for value in values:
        for plane in (aligned(plane, rank) for plane in value.planes):
            for other, size in zip(values, sizes):
                if (
                    other is not value
                    and size[plane.cut] > 1
                    and other.plane(plane.cut - rank + len(other.shape)) is None
                ):
                    labels.fix(plane.ids, "meets a value whose size is fixed")
            planes.append(plane)
    sources = [value.source for value in values]
    source = (
        frozenset().union(*sources) if all(s or v.known is not None for s, v in zip(sources, values)) else frozenset()
    )
    return Value(shape, normalised(labels, planes), free, source)


def contract(
    labels: Labels, operands: Sequence[tuple[Value, str]], out: str, shape: Shape, free: frozenset[int], kind: str
) -> Value:
    """Labels of a sum of products in Einstein's notation: a letter for each dimension of each operand and of the result."""
    letters = "".join(dict.fromkeys("".join(names for _, names in operands)))
    spread: list[tuple[int, str, torch.Tensor]] = []
    for number, (value, names) in enumerate(operands):
        for plane in value.planes:
            letter = names[plane.cut]
            ids = _by_letter(plane.ids, names, letters)
            spread.append((number, letter, ids))
            if value.source and kind:
                labels.role(value, plane, letter in out, kind)
    for number, letter, ids in spread:
        for other, (value, names) in enumerate(operands):
            if other == number or letter not in names or value.shape[names.index(letter)] == 1:
                continue
            partners = [found for place, name, found in spread if place == other and name == letter]
            if not partners:
                labels.fix(ids, "is summed or multiplied with a value whose size is fixed")
            for partner in partners:
                if number < other:
                    labels.unite(ids, partner)
    planes = []
    for _, letter, ids in spread:
        if letter not in out:
            # What cuts along a row that is summed over would change how many rows there are.
            continue
        gone = [dim for dim, name in enumerate(letters) if name not in out]
        ids = labels.unite_along(ids, gone)
        planes.append(Plane(_by_letter(ids, letters, out), out.index(letter)))
    _fix_across(labels, spread, letters)
    return Value(shape, normalised(labels, planes), free)


def _fix_across(labels: Labels, spread: Sequence[tuple[int, str, torch.Tensor]], letters: str) -> None:
    rows = {name for _, letter, ids in spread for name, size in zip(letters, ids.shape) if size > 1 and name != letter}
    for _, letter, ids in spread:
        if letter in rows:
            labels.fix(ids, "stands across the rows of other units")


def _by_letter(ids: torch.Tensor, names: str, letters: str) -> torch.Tensor:
    """Dimensions in the order of `letters`, one long for letters that `names` lacks; letters left out must be one long."""
    for dim in range(len(names) - 1, -1, -1):
        if names[dim] not in letters:
            ids = ids.select(dim, 0)
    names = "".join(name for name in names if name in letters)
    ids = ids.permute([names.index(name) for name in letters if name in names])
    for dim, name in enumerate(letters):
        if name not in names:
            ids = ids.unsqueeze(dim)
    return ids


def hint(size: Any) -> int:
    """A size as a number: the example's where it is free."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
