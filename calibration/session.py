"""ONNX Runtime as the judge of a graph: silent, and exact on every processor."""

from __future__ import annotations

import onnx
import onnxruntime

from googlenet_edge.processor import read_processor

_ERRORS_ONLY = 3


def open_session(
    model: onnx.ModelProto,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
) -> onnxruntime.InferenceSession:
    """A model, ready to run on the CPU. Sums of 8-bit products are exact, however long that takes.

    Without ``session.x64quantprecision``, models with 8-bit weights saturate on processors without VNNI.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = level
    if read_processor().saturates_u8s8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
