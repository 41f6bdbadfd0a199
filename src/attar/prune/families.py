"""Families of operations that attar treats alike, by their names in aten: without overload and in-place mark.

Where one family is more than a line of the table of rules (`propagate.RULES`), it stands here, with what its members share.
"""

from __future__ import annotations


def _family(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Contractions

PRODUCTS = _family("matmul mm bmm mv")
"""Matrix products of the first two arguments."""

ADDED_PRODUCTS = _family("addmm baddbmm")
"""Matrix products of the second and third argument, added to the first."""

CONVOLUTIONS = _family("conv1d conv2d conv3d")
"""The weight is (made, read by each group, ...)."""

TRANSPOSED = _family("conv_transpose1d conv_transpose2d conv_transpose3d")
"""The weight is (read, made by each group, ...)."""

ALL_CONVOLUTIONS = CONVOLUTIONS | TRANSPOSED | {"convolution"}
"""Also the one of any kind, whose arguments say whether it is transposed."""

LAYERS = CONVOLUTIONS | _family("linear layer_norm rms_norm batch_norm group_norm")
"""The weight and the bias have a row for each unit of the result: what multiplies these rows multiplies the unit."""

# Over some of the dimensions

LAYER_NORMS = _family("layer_norm rms_norm")
"""Norms over the last dimensions, whose sizes are the second argument."""

SOFTMAXES = _family("softmax log_softmax _softmax _log_softmax")
"""Shares of a whole along the dimension that is the second argument."""

REDUCTIONS = _family("""
    sum mean nanmean amax amin max min median prod any all var std var_mean std_mean logsumexp norm linalg_vector_norm
    frobenius_norm
""")
"""One number out of all along some dimensions."""

ORDERED = _family("norm linalg_vector_norm")
"""Norms whose second argument is their order."""

WITH_PLACES = _family("max min median")
"""Reductions whose second result says where the first was found."""

OF_TWO = {"aten::max": "maximum", "aten::min": "minimum"}
"""Reductions that work element by element where they are given two tensors."""

ALONG = _family("topk sort argsort cumsum cumprod cummax logcumsumexp")
"""The order or number of elements along one dimension counts; along others each place is worked on alone."""

SPATIAL = _family("""
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool2d_with_indices
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    upsample_linear1d upsample_trilinear3d
""")
"""Pooling and interpolation over the last dimensions, each channel alone."""

# Element by element

COPIES = _family("""
    dropout feature_dropout contiguous clone to _to_copy type_as detach alias lift_fresh lift_fresh_copy positive
    requires_grad type float double half bfloat16 cpu cuda
""")
"""The numbers themselves, somewhere else or in another format; in eval mode also those of dropout."""

SAME = COPIES | _family("""
    alpha_dropout feature_alpha_dropout native_dropout relu6 hardswish hardsigmoid selu celu mish log_sigmoid masked_fill
    masked_scatter copy where rsub clamp clamp_min clamp_max threshold nan_to_num bernoulli fill zero uniform normal
    true_divide multiply subtract divide absolute arctan2 float_power softsign logaddexp isfinite
""")
"""Operations that work element by element though torch does not tag them so."""

HOMOGENEOUS = _family("""
    relu amax amin max min mean sum
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
""")
"""Operations that give so many times as much for so many times as much, if that is above zero."""

# Data movement

MOVES = _family("""
    view _unsafe_view reshape view_as reshape_as permute transpose t numpy_T mT movedim moveaxis swapaxes swapdims squeeze
    unsqueeze flatten unflatten slice select narrow split split_with_sizes chunk tensor_split unbind flip roll rot90 unfold
    diagonal pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle repeat_interleave tile repeat adjoint
    unsafe_split unsafe_chunk unsafe_split_with_sizes split_copy unbind_copy
""")
"""Each output element is one input element."""

EQUAL_PARTS = _family("split chunk tensor_split unsafe_split unsafe_chunk split_with_sizes")
"""Parts along a dimension; where all are of one size, the code counts on it."""

SLICES = _family("slice narrow")
"""A run of elements along a dimension, told by the third and fourth argument."""

SIZED = _family("view _unsafe_view reshape expand split split_with_sizes unflatten")
"""Code gives them sizes."""

PADS = _family("pad constant_pad_nd")
"""The second argument says how many elements are put before and after those along the last dimensions."""

# New values

MAKERS = _family("""
    zeros ones full empty rand randn new_zeros new_ones new_full new_empty empty_strided new_empty_strided eye scalar_tensor
""")
"""A tensor is made of sizes alone."""

LIKES = _family("zeros_like ones_like full_like empty_like rand_like randn_like bernoulli randint_like")
"""A tensor of another's shape is made."""

UNSET = _family("empty empty_like new_empty empty_strided new_empty_strided")
"""What comes out is what lay in memory."""
