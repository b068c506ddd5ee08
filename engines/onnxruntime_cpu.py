"""ONNX Runtime on the CPU: as fast as it can, and as a TensorRT device would round."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.engines.protocol import NOT_LOWERED, Engine, EngineOptions, EngineSpec, usable
from googlenet_edge.errors import EngineError, why
from googlenet_edge.processor import Processor, read_processor
from googlenet_edge.target import Device, EngineName

_ERRORS_ONLY = 3


class OnnxRuntimeCpu(Engine):
    """An `Engine` that holds one inference session."""

    _name = EngineName.ONNXRUNTIME
    _level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        """Loads and optimizes the bytes of an ``.onnx`` file. Raises `EngineError`."""
        settings = session_options(options, processor=read_processor())
        settings.graph_optimization_level = self._level
        try:
            session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        except Exception as problem:  # the runtime's own errors have no common base
            raise EngineError(
                f"ONNX Runtime cannot load the model ({why(problem)}); build the bundle again"
            ) from problem
        self._session: onnxruntime.InferenceSession | None = session
        self.input, self._output, crop, classes = interface_of(session)
        name, version = self._name.value, onnxruntime.__version__
        self.spec = EngineSpec(name, version, Device.CPU, options.threads, crop, classes, options.streams)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        session = usable(self._session, pixels, self.spec)
        try:
            (logits,) = session.run([self._output], {self.input: pixels})
        except Exception as problem:  # as above
            raise EngineError(f"ONNX Runtime failed on a batch of {len(pixels)} ({why(problem)})") from problem
        return np.asarray(logits, dtype=np.float32)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None


class Simulated(OnnxRuntimeCpu):
    """What a TensorRT device will compute, found out on a processor: every rounding of the lowered graph, and no other.

    With its optimizer off, ONNX Runtime runs each QuantizeLinear and DequantizeLinear as it stands, and what is between
    them in float32. TensorRT computes the same roundings in other kernels, so its logits differ in the last digits and,
    where a value lies between two codes, by a code. Its accuracy is known before a device is at hand; its speed is not.
    """

    _name = EngineName.SIMULATED
    _level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        """Where TensorRT rounds by a calibration cache, so does this. Raises `EngineError`, `CalibrationError`."""
        if options.calibration_cache:
            model = _rounding(model, options.calibration_cache)
        super().__init__(model, options)


def session_options(options: EngineOptions, *, processor: Processor) -> onnxruntime.SessionOptions:
    """The runtime's settings.

    ``session.x64quantprecision`` avoids saturating sums with u8 weights. It stays off where nothing saturates: ONNX
    Runtime 1.31 turns to u8 weights on VNNI processors too, which doubles the latency of GoogLeNet.
    """
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ERRORS_ONLY
    if options.weight_bits == 8 and processor.saturates_u8s8:
        settings.add_session_config_entry("session.x64quantprecision", "1")
    return settings


def interface_of(session: onnxruntime.InferenceSession) -> tuple[str, str, int, int]:
    """(input name, output name, crop, classes). Raises `EngineError` where the model is of another kind."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    match [(each.type, each.shape) for each in inputs], [(each.type, each.shape) for each in outputs]:
        case (
            [("tensor(uint8)", [_, int(height), int(width), 3])],
            [("tensor(float)", [_, int(classes)])],
        ) if height == width:
            return inputs[0].name, outputs[0].name, height, classes
    raise EngineError(NOT_LOWERED)


def _rounding(model: bytes, cache: bytes) -> bytes:
    try:
        from googlenet_edge.calibration.trt_cache import simulating_bytes  # noqa: PLC0415  (needs onnx, all else does not)
    except ImportError as problem:
        raise EngineError(
            f"a bundle for a DLA cannot be simulated here ({problem}); pip install 'googlenet-edge[build]', or open it"
            " on the device"
        ) from problem
    return simulating_bytes(model, cache)
