"""Multiply-accumulates, counted as a network runs: one way for artifacts, summaries, and operations without a rule."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counting_macs() -> Iterator[Callable[[], int]]:
    """Count what convolutions and matrix products do within; the function says how many MACs there were up to now.

    Attention and recurrent layers run as matrix products meanwhile: torch's counter does not know all their own kernels,
    and counts an LSTM of oneDNN or cuDNN as nothing.
    """
    products = dict.fromkeys((torch.ops.aten.mv, torch.ops.aten.dot), _by_vector)  # torch's counter leaves these out
    with (
        _plain_attention(),
        _switched_off(torch.backends.mkldnn),
        _switched_off(torch.backends.cudnn),
        FlopCounterMode(display=False, custom_mapping=products) as counter,
    ):
        yield lambda: counter.get_total_flops() // 2


@contextmanager
def _plain_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _switched_off(library: Any) -> Iterator[None]:
    before = library.enabled  # the library's own `flags` would set, and warn of, TF32 as well
    library.enabled = False
    try:
        yield
    finally:
        library.enabled = before


def _by_vector(first: Sequence[int], vector: Sequence[int], *rest: Any, **more: Any) -> int:
    """FLOPs of a matrix or vector times a vector, from their shapes."""
    return 2 * prod(first)
