"""Which of torch's operations a file may name: those of networks that run on images, each of which checks what it is given.

A schema says whether an operation takes tensors and numbers only, not whether it holds its indices and sizes against the
memory that they lead into: parts of operations (gradients, `_` and `native_` kernels) leave that to their callers. So the
names are listed. Below all rooms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

NAME = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
KIND = re.compile(r"((Optional|List)\[)*(Tensor|number|int|float|complex|bool|str|Device|Generator)\]*")
PRODUCTS = """
    linear bilinear matmul mm bmm addmm baddbmm addbmm addmv addr mv dot vdot outer ger inner kron cross linalg_cross
    einsum tensordot linalg_multi_dot cdist cosine_similarity pairwise_distance matrix_exp linalg_matrix_exp
    linalg_householder_product linalg_solve linalg_inv conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution im2col col2im scaled_dot_product_attention embedding
    lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
NORMS = """
    batch_norm layer_norm rms_norm group_norm instance_norm renorm norm linalg_vector_norm linalg_matrix_norm
    linalg_norm frobenius_norm softmax log_softmax _softmax _log_softmax glu prelu rrelu celu selu elu gelu silu mish
    relu relu6 leaky_relu hardswish hardsigmoid hardtanh hardshrink softshrink softplus threshold logit log_sigmoid
    clamp clamp_max clamp_min clip dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
"""
WINDOWS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d grid_sampler affine_grid_generator pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle pad constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
"""
ELEMENTWISE = """
    absolute arctan2 divide multiply subtract negative greater greater_equal less less_equal not_equal float_power
    __and__ __or__ __xor__ __lshift__ __rshift__
"""
"""What torch does not tag as pointwise, or by these names."""
REDUCTIONS = """
    sum nansum mean nanmean median nanmedian amax amin aminmax max min prod any all argmax argmin logsumexp var std
    var_mean std_mean count_nonzero topk sort argsort msort kthvalue mode cumsum cumprod cummax cummin logcumsumexp diff
    trace bucketize
"""
MOVES = """
    view _unsafe_view reshape view_as reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose t numpy_T
    matrix_H mT mH adjoint movedim moveaxis swapaxes swapdims expand expand_as broadcast_to broadcast_tensors repeat
    repeat_interleave tile roll flip fliplr flipud rot90 cat concat concatenate stack hstack vstack dstack column_stack
    split split_with_sizes split_copy chunk tensor_split hsplit vsplit dsplit unbind unbind_copy unsafe_split
    unsafe_split_with_sizes unsafe_chunk narrow select slice diagonal diag diag_embed diagflat block_diag tril triu
    unfold slice_scatter select_scatter diagonal_scatter meshgrid cartesian_prod atleast_1d atleast_2d atleast_3d
    view_as_real view_as_complex index index_select index_put index_add index_copy index_fill gather scatter scatter_add
    scatter_reduce take take_along_dim masked_fill masked_select masked_scatter where one_hot isin clone contiguous
    detach detach_ alias lift_fresh lift_fresh_copy copy to _to_copy type_as float double half bfloat16 cpu cuda
    resolve_conj resolve_neg _conj real imag fill zero fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2
    fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift
"""
MAKERS = """
    zeros ones full empty rand randn randint randperm arange linspace logspace eye scalar_tensor tril_indices
    triu_indices empty_strided new_empty_strided new_zeros new_ones new_full new_empty zeros_like ones_like full_like
    empty_like rand_like randn_like randint_like bernoulli uniform normal hann_window hamming_window
"""
OF_SIZES = """
    sym_size sym_numel sym_stride size numel _assert_tensor_metadata _assert_scalar sym_constrain_range
    sym_constrain_range_for_size
"""
UNCHECKED = frozenset(("repeat_interleave.Tensor", "repeat_interleave.self_Tensor"))
"""Overloads that take their sizes from tensors and trust them."""
ENUMERATIONS = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format}
"""A schema calls these `int`, and takes any number for them; torch looks it up in tables without looking at their ends."""
DTYPES = frozenset(
    (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    )
)  # fmt: skip
_ROUNDING = {"rounding_mode": (None, "floor")}
BOUNDED: dict[str, dict[str, tuple[Any, ...]]] = {
    "grid_sampler": {"interpolation_mode": (0, 1, 2), "padding_mode": (0, 1, 2)},
    "div": _ROUNDING,
    "divide": _ROUNDING,
}
"""What else is not looked at: unknown modes, and the quotient of integers towards zero, which -2**63 / -1 overflows."""
NAMED = frozenset(" ".join((PRODUCTS, NORMS, WINDOWS, ELEMENTWISE, REDUCTIONS, MOVES, MAKERS, OF_SIZES)).split())


def operation_named(name: str) -> torch._ops.OpOverload:
    """The operation that a file calls `torch.ops.aten.NAME.OVERLOAD`, if it is one that files may name.

    Raises:
        ValueError: there is none, or it could read or write something else: a file, torch's state, memory not its own.
    """
    match = NAME.fullmatch(name)
    found = getattr(getattr(torch.ops.aten, match[1], None), match[2], None) if match else None
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{name!r:.100} is no operation of torch")
    if not _computes(found):
        raise ValueError(f"{name!r:.100} is no tensor operation that a file may name")
    return found


def check_arguments(operation: torch._ops.OpOverload, given: Mapping[str, Any]) -> None:
    """See that what a file gives an operation, by the names of its schema, is what the operation takes unchecked.

    Raises:
        ValueError: a type, layout or mode is no such thing, or is computed.
    """
    name = operation._schema.name.removeprefix("aten::")
    bounds = BOUNDED.get(name.rstrip("_"), {})
    for argument in operation._schema.arguments:
        if argument.name not in given:
            continue
        value, kind = given[argument.name], str(argument.real_type)
        kinds = [cls for word, cls in ENUMERATIONS.items() if word in kind]
        good = value is None or all(isinstance(value, cls) for cls in kinds)
        if kinds and good and isinstance(value, torch.dtype):
            good = value in DTYPES
        if argument.name in bounds:
            good = isinstance(value, int | str | None) and value in bounds[argument.name]
        if not good:
            raise ValueError(f"{name} may not be given {argument.name}={value!r:.100} by a file")


def _computes(operation: torch._ops.OpOverload) -> bool:
    schema = operation._schema
    name = schema.name.removeprefix("aten::")
    in_place = name.endswith("_") and not name.startswith("__")
    writes = any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments)
    return (
        all(KIND.fullmatch(str(part.type)) for part in (*schema.arguments, *schema.returns))
        and writes == in_place
        and f"{name}.{operation._overloadname}" not in UNCHECKED
        and (name in NAMED or name.rstrip("_") in NAMED or _is_pointwise(operation))
    )


def _is_pointwise(operation: torch._ops.OpOverload) -> bool:
    """Element by element, whatever the shapes: torch says so of arithmetic and activations, but of their gradients too, and of
    polynomials of any degree, which take for ever."""
    name = operation._schema.name.removeprefix("aten::")
    return torch.Tag.pointwise in operation.tags and "backward" not in name and not name.startswith(("_", "special_"))
