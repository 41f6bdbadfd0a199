"""The exact cost of any choice of kept units, fast enough to be asked thousands of times while planning.

Units that own the same share of every axis cost the same whatever else is kept, so a choice is summed up by the number
of units kept in each such class. Costs are then short products of linear forms in these numbers: one vectorised pass.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from attar.prune.saved import SavedFile
from attar.prune.structure import Axis, Kept, Structure, Term

COUNTED = ("params", "macs", "bytes")
"""The kinds of cost that a structure tells; latency is measured."""


class CostModel:
    """Costs of a structure, compiled once: an evaluation then takes well under a millisecond."""

    classes: list[np.ndarray]
    """For each group, int64 (size,): the class of each unit. Classes are numbered through all groups."""
    whole: np.ndarray
    """int64 (classes,): units in each class when nothing is cut."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        terms = {kind: getattr(structure, kind) for kind in COUNTED}
        axes = _distinct_axes([term for kind in COUNTED for term in terms[kind]])
        self._classify(list(axes.values()))
        self._compile_axes(axes)
        self._slices: dict[str, slice] = {}
        scales: list[float] = []
        products: list[list[int]] = []
        for kind in COUNTED:
            start = len(scales)
            for term in terms[kind]:
                scales.append(float(term.scale))
                products.append([self._axis_number[id(axis)] for axis in term.axes])
            self._slices[kind] = slice(start, len(scales))
        # The last axis, number -1, is constantly one long: terms with fewer axes are padded with it.
        depth = max((len(numbers) for numbers in products), default=0)
        padded = [numbers + [-1] * (depth - len(numbers)) for numbers in products]
        self._scales = np.array(scales)
        self._products = np.array(padded, dtype=np.int64).reshape(len(products), depth)
        self._compile_pairs()
        self._compile_file(terms["bytes"])

    def _classify(self, axes: Sequence[Axis]) -> None:
        """Give every unit its class: units with equal counts on every axis of the network."""
        columns: list[list[np.ndarray]] = [[] for _ in self.structure.groups]
        for axis in axes:
            for index, counts in axis.counts.items():
                values = _numbers(counts)
                if len(values) and values.min() != values.max():
                    columns[index].append(values)
        self.classes, self._examples = [], []
        sizes: list[int] = []
        for group, own in zip(self.structure.groups, columns):
            number, count = np.zeros(group.size, dtype=np.int64), min(group.size, 1)
            if own:
                distinct, number = np.unique(np.stack(own, axis=1), axis=0, return_inverse=True)
                number, count = number.reshape(-1).astype(np.int64), len(distinct)
            self.classes.append(number + len(sizes))
            self._examples.append(np.unique(self.classes[-1], return_index=True))
            sizes += np.bincount(number, minlength=count).tolist()
        self.whole = np.array(sizes, dtype=np.int64)

    def _compile_axes(self, axes: dict[int, Axis]) -> None:
        """Lengths as one sparse matrix: entries (axis, class, coefficient); axes that say the same share a number."""
        self._axis_number: dict[int, int] = {}
        known: dict[tuple, int] = {}
        fixed: list[float] = []
        entries: list[tuple[int, int, float]] = []
        for key, axis in axes.items():
            form = [item for group, counts in sorted(axis.counts.items()) for item in self._coefficients(group, counts)]
            number = known.setdefault((float(axis.fixed), *form), len(known))
            self._axis_number[key] = number
            if number == len(fixed):
                fixed.append(float(axis.fixed))
                entries += [(number, unit_class, value) for unit_class, value in form]
        self._fixed = np.array(fixed + [1.0])
        self._entry_axis = np.array([entry[0] for entry in entries], dtype=np.int64)
        self._entry_class = np.array([entry[1] for entry in entries], dtype=np.int64)
        self._entry_value = np.array([entry[2] for entry in entries])

    def _coefficients(self, group: int, counts: torch.Tensor) -> list[tuple[int, float]]:
        numbers, first = self._examples[group]
        values = _numbers(counts)[first]
        return [(int(number), float(value)) for number, value in zip(numbers, values) if value]

    def _compile_pairs(self) -> None:
        """All pairs of a class and a term that it appears in, with its coefficient on each of the term's axes."""
        owners: list[list[int]] = [[] for _ in self._fixed]
        values: list[list[float]] = [[] for _ in self._fixed]
        for axis, unit_class, value in zip(self._entry_axis, self._entry_class, self._entry_value):
            owners[axis].append(int(unit_class))
            values[axis].append(float(value))
        classes, terms, coefficients = [], [], []
        depth = self._products.shape[1]
        for term, numbers in enumerate(self._products.tolist()):
            found: dict[int, list[float]] = {}
            for place, axis in enumerate(numbers):
                for unit_class, value in zip(owners[axis], values[axis]):
                    found.setdefault(unit_class, [0.0] * depth)[place] = value
            classes += list(found)
            terms += [term] * len(found)
            coefficients += list(found.values())
        self._pair_class = np.array(classes, dtype=np.int64)
        self._pair_term = np.array(terms, dtype=np.int64)
        self._pair_value = np.array(coefficients).reshape(len(classes), depth)

    def _compile_file(self, terms: Sequence[Term]) -> None:
        """The weights file of the tensors whose dtype is known; others (of structures made by hand) have no header."""
        self._saved = [term.dtype is not None for term in terms]
        names, dtypes, dims = [], [], []
        for term in terms:
            if term.dtype is not None:
                names.append(term.name)
                dtypes.append(term.dtype)
                dims.append(len(term.axes))
        self._file = SavedFile(names, dtypes, dims) if names else None

    def cut(self, kept: Kept, structure: Structure) -> CostModel:
        """The costs of `structure`, which is this one after all but the `kept` units went, without compiling again."""
        small = copy.copy(self)
        small.structure = structure
        small.whole = self.class_counts(kept)
        masks = {index: mask.numpy().astype(bool) for index, mask in kept.items()}
        small.classes = [own[masks[index]] if index in masks else own for index, own in enumerate(self.classes)]
        return small

    def class_counts(self, kept: Kept) -> np.ndarray:
        """int64 (classes,): how many units of each class `kept` keeps."""
        counts = self.whole.copy()
        for group, mask in kept.items():
            removed = self.classes[group][~mask.numpy().astype(bool)]
            counts -= np.bincount(removed, minlength=len(counts))
        return counts

    def evaluate(self, counts: np.ndarray) -> dict[str, int]:
        """Exact costs by kind for the class counts (classes,)."""
        # Coefficients may be fractions (the inputs of a grouped convolution); a term as a whole is a whole number.
        lengths = self._lengths(counts)
        terms = np.rint(self._terms(lengths)).astype(np.int64)
        costs = {kind: int(terms[where].sum()) for kind, where in self._slices.items()}
        if self._file is not None:
            tensors = np.rint(lengths[self._products[self._slices["bytes"]][self._saved]]).astype(np.int64)
            costs["bytes"] += self._file.size(tensors) - int(terms[self._slices["bytes"]][self._saved].sum())
        return costs

    def cost(self, kept: Kept | None = None) -> dict[str, int]:
        """Exact `params`, `macs` (of one sample) and `bytes` (of the weights file) when these units are kept."""
        return self.evaluate(self.class_counts(kept or {}))

    def marginal(self, kept: Kept | None = None) -> dict[str, list[torch.Tensor]]:
        """What each kind falls by when one unit alone goes: for each group a float64 (size,) tensor.

        A unit of a group with rows takes one unit of every other row along; here it is charged with its own share.
        """
        lengths = self._lengths(self.class_counts(kept or {}))
        ends = lengths[self._products[self._pair_term]]
        loss = self._scales[self._pair_term] * (ends.prod(axis=1) - (ends - self._pair_value).prod(axis=1))
        result: dict[str, list[torch.Tensor]] = {}
        for kind, where in self._slices.items():
            mine = (self._pair_term >= where.start) & (self._pair_term < where.stop)
            by_class = np.bincount(self._pair_class[mine], weights=loss[mine], minlength=len(self.whole))
            result[kind] = [torch.from_numpy(by_class[number]) for number in self.classes]
        return result

    def _lengths(self, counts: np.ndarray) -> np.ndarray:
        moving = self._entry_value * counts[self._entry_class]
        return self._fixed + np.bincount(self._entry_axis, weights=moving, minlength=len(self._fixed))

    def _terms(self, lengths: np.ndarray) -> np.ndarray:
        return self._scales * lengths[self._products].prod(axis=1)


def costs(structure: Structure, kept: Kept | None = None) -> dict[str, int]:
    """Exact `params`, `macs` (of one sample) and `bytes` (of the weights file) when these units are kept."""
    return CostModel(structure).cost(kept)


def _numbers(counts: torch.Tensor) -> np.ndarray:
    return counts.numpy().astype(np.float64, copy=False)


def _distinct_axes(terms: Sequence[Term]) -> dict[int, Axis]:
    """The axes by identity, so that one shared by many terms is read once."""
    return {id(axis): axis for term in terms for axis in term.axes}
