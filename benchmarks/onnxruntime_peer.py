"""ONNX Runtime's own static quantization of a graph, as its documentation recommends it for x86 with VNNI and for Arm.

That is `quant_pre_process`, then `quantize_static`: QDQ form, u8 activations, s8 weights per channel, min/max ranges.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from googlenet_edge.calibration.pixels import taking_pixels
from googlenet_edge.dataset import ImageSet, load_pixels
from googlenet_edge.graph import INPUT, InferenceGraph, write_graph


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the package ships no types
    """Calibration images as ONNX Runtime asks for them."""

    def __init__(self, graph: InferenceGraph, images: ImageSet) -> None:
        self._batches = (
            {INPUT: graph.preprocess.normalize(pixels[None])} for pixels in load_pixels(images, graph.preprocess)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantized_by_onnxruntime(graph: InferenceGraph, images: ImageSet) -> bytes:
    """The same graph, quantized by ONNX Runtime; it takes pixels, as the engines of this package want it."""
    with tempfile.TemporaryDirectory() as name:
        original, prepared, quantized_file = (Path(name) / f"{stem}.onnx" for stem in ("fp32", "prepared", "int8"))
        write_graph(original, graph)
        quant_pre_process(str(original), str(prepared))
        quantize_static(
            str(prepared),
            str(quantized_file),
            _Reader(graph, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=False,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return taking_pixels(onnx.load(quantized_file), graph.preprocess).SerializeToString()
