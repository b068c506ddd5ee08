"""What a TensorRT device will compute, found out on a processor: every rounding of the lowered graph, and no other.

ONNX Runtime with its optimizer off runs each QuantizeLinear and DequantizeLinear as it stands, and everything between
them in float32. TensorRT computes the same roundings in other kernels, so its logits differ in the last digits and,
where a value lies between two codes, by a code. Its accuracy is known before a device is at hand; its speed is not.
"""

from __future__ import annotations

import onnxruntime

from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu
from googlenet_edge.target import EngineName


class Simulated(OnnxRuntimeCpu):
    """An `Engine` for accuracy: slow, and not the device's."""

    _name = EngineName.SIMULATED
    _level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
