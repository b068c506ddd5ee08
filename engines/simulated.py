"""What a TensorRT device will compute, found out on a processor: every rounding of the lowered graph, and no other.

ONNX Runtime with its optimizer off runs each QuantizeLinear and DequantizeLinear as it stands, and everything between
them in float32. TensorRT computes the same roundings in other kernels, so its logits differ in the last digits and,
where a value lies between two codes, by a code. Its accuracy is known before a device is at hand; its speed is not.
"""

from __future__ import annotations

import onnxruntime

from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.errors import EngineError
from googlenet_edge.target import EngineName


class Simulated(OnnxRuntimeCpu):
    """An `Engine` for accuracy: slow, and not the device's."""

    _name = EngineName.SIMULATED
    _level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        """Where TensorRT rounds by a calibration cache, so does this. Raises `EngineError`, `CalibrationError`."""
        if options.calibration_cache:
            model = _rounding(model, options.calibration_cache)
        super().__init__(model, options)


def _rounding(model: bytes, cache: bytes) -> bytes:
    try:
        from googlenet_edge.calibration.trt_cache import simulating_bytes  # noqa: PLC0415  (needs onnx, all else does not)
    except ImportError as problem:
        raise EngineError(
            f"a bundle for a DLA cannot be simulated here ({problem}); pip install 'googlenet-edge[build]', or open it"
            " on the device"
        ) from problem
    return simulating_bytes(model, cache)
