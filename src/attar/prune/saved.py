"""The exact size of the weights file, safetensors with its header, without writing it.

The file is 8 bytes, a header in JSON padded with blanks to a multiple of 8, and the tensors: by dtype, the last in the
format's own list first, then by name. The header has every tensor's name, dtype, shape, and where it begins and ends, so its
length depends on the number of digits of all of these.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
"""The format's words for dtypes, in its order."""
_TENS = 10 ** np.arange(1, 19, dtype=np.int64)


class SavedFile:
    """The file of tensors with these names and dtypes; asked for its size at any shapes, many thousand times."""

    def __init__(self, names: Sequence[str], dtypes: Sequence[torch.dtype], dims: Sequence[int]) -> None:
        """`dims`: how many dimensions each tensor has."""
        ranks = list(DTYPES)
        order = sorted(range(len(names)), key=lambda i: (-ranks.index(dtypes[i]), names[i].encode()))
        self._order = np.array(order, dtype=np.int64)
        self._item = np.array([dtypes[i].itemsize for i in order], dtype=np.int64)
        depth = max(dims, default=0)
        self._real = np.array([[d < dims[i] for d in range(depth)] for i in order], dtype=bool).reshape(
            len(order), depth
        )
        words = [
            json.dumps(names[i], ensure_ascii=False)
            + f':{{"dtype":"{DTYPES[dtypes[i]]}","shape":[],"data_offsets":[,]}}'
            for i in order
        ]
        commas = sum(max(0, dims[i] - 1) for i in order) + max(0, len(names) - 1)
        self._fixed = sum(len(word.encode()) for word in words) + commas + len("{}")

    def size(self, lengths: np.ndarray) -> int:
        """Bytes of the file; `lengths`: int64 (tensors, dimensions or more), 1 in the places that a tensor does not have."""
        lengths = lengths[self._order]
        ends = np.cumsum(self._item * lengths.prod(axis=1))
        starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]]) if len(ends) else ends
        shapes = lengths[:, : self._real.shape[1]][self._real]
        header = self._fixed + sum(int(_digits(numbers).sum()) for numbers in (shapes, starts, ends))
        return 8 + (header + 7) // 8 * 8 + (int(ends[-1]) if len(ends) else 0)


def saved_bytes(model: torch.nn.Module) -> int:
    """The size of the file that the network's parameters and persistent buffers come to, tied ones once."""
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            tensors.setdefault(id(tensor), (name, tensor))
    return saved_file(dict(tensors.values()))


def saved_file(tensors: dict[str, torch.Tensor]) -> int:
    """Bytes of a safetensors file with these tensors."""
    depth = max((tensor.dim() for tensor in tensors.values()), default=0)
    lengths = [[*tensor.shape, *[1] * (depth - tensor.dim())] for tensor in tensors.values()]
    file = _file(tuple(tensors), tuple(t.dtype for t in tensors.values()), tuple(t.dim() for t in tensors.values()))
    return file.size(np.array(lengths, dtype=np.int64).reshape(len(tensors), depth))


@lru_cache(maxsize=8)
def _file(names: tuple[str, ...], dtypes: tuple[torch.dtype, ...], dims: tuple[int, ...]) -> SavedFile:
    return SavedFile(names, dtypes, dims)


def _digits(numbers: np.ndarray) -> np.ndarray:
    return np.searchsorted(_TENS, numbers, side="right") + 1
