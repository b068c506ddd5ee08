"""OpenVINO on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.engines.protocol import NOT_LOWERED, Engine, EngineOptions, EngineSpec, usable
from googlenet_edge.errors import EngineError
from googlenet_edge.processor import Processor, read_processor
from googlenet_edge.target import Device, EngineName

# Where this cannot be imported, OpenVINO tells Google Analytics nothing of it; what else wants it finds it afterwards.
_seen = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
finally:
    if _seen is None:
        del sys.modules["openvino_telemetry"]

Settings = dict[str, str | int | bool]

_COUNTED = ("Convolution", "Pooling", "Concatenation")
_INTEGERS = {"u8", "i8"}
_IN_FLOAT = "LP_TRANSFORMS_MODE"  # off, INT8 is computed in float

# What the binding makes when it is first used, made while only one thread can be here: two at once wait for each other
# for ever.
openvino.Type.u8.to_dtype()
_ = openvino.Tensor(openvino.Type.u8, [1]).data, openvino.Tensor(np.zeros(1, np.uint8)).data


class OpenVinoCpu(Engine):
    """An `Engine` that holds one model, compiled for one image: a larger batch is computed image by image.

    On a CPU that is as fast as a batch (the weights stay in the caches), needs no second model for other sizes, and
    makes the logits of an image independent of what stands beside it.
    """

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        """Loads and compiles the bytes of an ``.onnx`` file. Raises `EngineError`."""
        try:
            compiled, crop, classes = compile_model(model, options)
        except RuntimeError as problem:
            raise EngineError(
                f"OpenVINO cannot load the model ({_reason(problem)}); build the bundle again"
            ) from problem
        self._own: _RequestOfThread | None = _RequestOfThread(compiled)
        self._process = os.getpid()
        version = openvino.__version__.partition("-")[0]
        name = EngineName.OPENVINO.value
        self.spec = EngineSpec(name, version, Device.CPU, options.threads, crop, classes, options.streams)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        own = usable(self._own, pixels, self.spec)
        if self.spec.streams > 1 and os.getpid() != self._process:  # it would wait for threads that are not here
            raise EngineError("the engine was opened before this process was forked; open the bundle in this process")
        try:
            return np.concatenate([own.infer(image) for image in np.split(pixels, len(pixels))])
        except RuntimeError as problem:
            raise EngineError(f"OpenVINO failed on a batch of {len(pixels)} ({_reason(problem)})") from problem

    def close(self) -> None:
        """See `Engine.close`."""
        self._own = None


class _RequestOfThread(threading.local):
    """An inference request for every thread that asks: one request serves one thread at a time."""

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self._request = compiled.create_infer_request()

    def infer(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One image with its batch axis → logits float32 ``(1, classes)``, a copy."""
        return np.array(self._request.infer([image], share_inputs=True, share_outputs=True)[0], dtype=np.float32)


def compile_model(model: bytes, options: EngineOptions) -> tuple[openvino.CompiledModel, int, int]:
    """(the model compiled for one image, crop, classes).

    Raises:
        RuntimeError: of OpenVINO.
        EngineError: the model is of another kind.
    """
    core = openvino.Core()
    network = core.read_model(model)
    crop, classes = _interface(network)
    network.reshape([1, *network.inputs[0].partial_shape[1:]])
    found = settings(options, processor=read_processor())
    if _IN_FLOAT in found:
        _fold_constants(network)
    with signal_stack_kept():
        return core.compile_model(network, "CPU", found), crop, classes


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Leaves this thread the stack on which its signals are handled (``sigaltstack``), or none.

    OpenVINO puts another in its place, and frees it with the engine. Of two engines that are closed in the order in
    which they were opened, the second one puts the first one's back, and then the next signal ends the process.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def _fold_constants(network: openvino.Model) -> None:
    """Weights as they will be computed with: streams that do this each for themselves get in each other's way.

    From OpenVINO 2026.2 on that gave wrong logits, others each time; what is far older has no `openvino.passes`.
    """
    with suppress(ImportError):
        from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415  (as said above)

        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(network)


def integers_in(model: bytes, options: EngineOptions) -> str:
    """What of the bytes of an ``.onnx`` file OpenVINO computes on integers here, such as ``57 of 57 Convolution``.

    Raises:
        RuntimeError: of OpenVINO.
        EngineError: the model is of another kind.
    """
    compiled, _, _ = compile_model(model, options)
    found = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
    types = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in found]
    of_kind = {kind: [precision for layer, precision in types if layer == kind] for kind in _COUNTED}
    return ", ".join(
        f"{sum(precision in _INTEGERS for precision in each)} of {len(each)} {kind}"
        for kind, each in of_kind.items()
        if each
    )


def settings(options: EngineOptions, *, processor: Processor) -> Settings:
    """The runtime's settings: as many threads as were asked for, wherever the system lets them run, and no bfloat16.

    oneDNN's products of u8 and s8 saturate on x86 without VNNI. Only 7-bit weights are safe there; a model with 8-bit
    weights is computed in float, which is exact and slow.
    """
    found: Settings = {
        "INFERENCE_NUM_THREADS": options.threads * options.streams,
        "NUM_STREAMS": options.streams,
        "ENABLE_HYPER_THREADING": True,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if options.weight_bits == 8 and processor.saturates_u8s8:
        found[_IN_FLOAT] = False
    return found


def _interface(network: openvino.Model) -> tuple[int, int]:
    """(crop, classes). Raises `EngineError` where the model is of another kind."""
    if len(network.inputs) == len(network.outputs) == 1:
        input_, output = network.inputs[0], network.outputs[0]
        types = input_.element_type.to_string(), output.element_type.to_string()
        match types, _shape(input_), _shape(output):
            case ("u8", "f32"), [_, int(height), int(width), 3], [_, int(classes)] if height == width:
                return height, classes
    raise EngineError(NOT_LOWERED)


def _shape(port: openvino.Output) -> list[int | None]:
    """The dimensions, ``None`` for one that is open."""
    return [d.get_length() if d.is_static else None for d in port.partial_shape]


def _reason(problem: RuntimeError) -> str:
    """What is wrong: the last line of OpenVINO's message, after the places in its source."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__
