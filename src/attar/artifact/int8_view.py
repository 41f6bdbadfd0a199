"""The network as int8 ONNX: weights per channel, activations uint8 by ranges seen on calibration images (QDQ form).

Weights use 7 of their 8 bits. Processors without VNNI add two products of uint8 and int8 in 16 bits, which saturate beyond
32,767: 255 x 128 twice does, and the same file answers otherwise than with VNNI; 255 x 64 twice fits, so that every
processor gives the same answers (onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.artifact.errors import ArtifactError
from attar.artifact.folder import read_description
from attar.artifact.manifest import read_file, read_manifest
from attar.artifact.onnx_view import INPUT, onnx_of, open_onnx
from attar.artifact.views import INT8, ONNX, View, add_view, import_extra
from attar.models import exporter_quiet

METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
BATCH = 64


def quantise_int8(
    path: str | Path, images: torch.Tensor, *, method: str = "minmax", network: nn.Module | None = None
) -> View:
    """Add `model.int8.onnx` to an artifact that has `model.onnx`, after it has replayed the golden batch.

    Post-training quantisation by ONNX Runtime's quantiser. A view that differs too much is kept and told by
    `View.agrees`.

    Args:
        path: the artifact's folder.
        images: uint8 (N, C, H, W), raw training images that tell the activations' ranges; 500 are plenty.
        method: how ranges are chosen: `minmax`, `entropy` or `percentile` (99.99).
        network: what to quantise in place of `model.onnx`: the artifact's network with weights that were fine-tuned for int8.

    Raises:
        ArtifactError: onnx or onnxruntime are missing, there is no `model.onnx`, or the images are not of its kind.
    """
    folder = Path(path)
    if method not in METHODS:
        raise ArtifactError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    files = read_manifest(folder)
    if ONNX not in files:
        raise ArtifactError(f"int8 is made from {ONNX}, which the artifact lacks: export it first")
    if images.dtype != torch.uint8 or images.dim() != 4 or len(images) == 0:
        raise ArtifactError(f"calibration images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    if network is None:
        source = read_file(folder, files, ONNX)
    else:
        source = onnx_of(network, read_description(folder, files))
    open_onnx(source)(images[:1])  # tells images of another size before the quantiser does in its own words
    content = quantise(source, images.split(BATCH), METHODS[method])
    return add_view(folder, INT8, content, open_onnx(content))


def quantise(source: bytes, batches: Sequence[torch.Tensor], method: str) -> bytes:
    """The int8 file made from a float one."""
    onnx = import_extra("onnx", "onnx")
    with exporter_quiet():
        quantisation = import_extra("onnxruntime.quantization", "onnx")
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / INT8
            quantisation.quantize_static(
                onnx.load_from_string(source),
                str(target),
                reader(quantisation, iter(batches)),
                quant_format=quantisation.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=quantisation.QuantType.QUInt8,
                weight_type=quantisation.QuantType.QInt8,
                calibrate_method=getattr(quantisation.CalibrationMethod, method),
                extra_options={"WeightSymmetric": True, "CalibPercentile": 99.99},
            )
            model = onnx.load(target)
    kept = onnx.load_from_string(source).metadata_props
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model.SerializeToString(deterministic=True)


def reader(quantisation: Any, batches: Iterator[torch.Tensor]) -> Any:
    """The batches in the form that the quantiser asks for."""

    class Reader(quantisation.CalibrationDataReader):
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()
