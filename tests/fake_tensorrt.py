"""A TensorRT that computes nothing, has the members of one version and no others, and writes down what it is told.

`fake_tensorrt("8.5.2", …)` is what `import tensorrt` gives there. What a version lacks raises `AttributeError`, as the
real one does: setting a property that a configuration does not have, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

from googlenet_edge.engines.tensorrt_library import Flavour, Library, library_of

LAYER_LINE = (
    "Engine Layer Information:\n"
    "Name: conv1_myl0_2, LayerType: correlation, Inputs: [ { Name: in, Dimensions: [1,4,8,8], Strides: [1], Datatype:"
    " Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [4], Datatype: Half, Format: x"
    " }], Outputs: [ { Name: out, Dimensions: [1,8], Strides: [1], Datatype: Float, Format: x }], TacticName: t,"
    " StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: conv1.relu]\n"
    "Name: w_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "
)
DLA_LINES = ["[DlaLayer] {ForeignNode[conv1...maxpool4]}", "[GpuLayer] CAST: pixels.real", "[GpuLayer] SHUFFLE: logits"]


@dataclass
class Script:
    """What the fake does, and what it was told."""

    parser_errors: tuple[str, ...] = ()
    build_fails_with: str = ""
    foreign_timing_cache: bool = False
    log: list[str] = field(default_factory=lambda: [LAYER_LINE])
    network_flags: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    shapes: tuple[tuple[int, ...], ...] = ()
    timing_caches: list[bytes] = field(default_factory=list)
    calibration: bytes | None = None
    calibrated_on: list[int] = field(default_factory=list)
    found_scales: bytes = b""
    built: bool = False
    starts: bool = True
    takes: int = 1 << 30
    dla_cores: int = 2
    pixels: Any = field(default_factory=lambda: SimpleNamespace(name="pixels", shape=(-1, 8, 8, 3), dtype="UINT8"))
    on_the_gpu: list[str] = field(default_factory=list)


def fake_library(version: str, script: Script, flavour: Flavour = Flavour.TENSORRT) -> Library:
    return library_of(fake_tensorrt(version, script, rtx=flavour is Flavour.RTX), flavour)


def fake_tensorrt(version: str, script: Script, *, rtx: bool = False) -> Any:
    """The module of a version."""
    number = tuple(int(part) for part in version.split("."))
    typed_only = rtx or number >= (11,)
    name = "tensorrt_rtx" if rtx else "tensorrt"
    trt: Any = ModuleType(name)
    trt.__spec__ = ModuleSpec(name, None)
    trt.__version__ = version
    trt.NetworkDefinitionCreationFlag = _enum(
        *(() if typed_only else ("EXPLICIT_BATCH",)), *(("STRONGLY_TYPED",) if typed_only or number >= (10,) else ())
    )
    trt.BuilderFlag = _enum("DEBUG", "GPU_FALLBACK", "TF32", *(() if typed_only else ("FP16", "INT8")))
    trt.MemoryPoolType = _enum("WORKSPACE")
    trt.ProfilingVerbosity = _enum("LAYER_NAMES_ONLY", "DETAILED")
    trt.DeviceType = _enum("GPU", "DLA")
    trt.DataType = _enum("FLOAT", "UINT8")
    trt.LayerType = _enum("CAST", "SHUFFLE", "CONVOLUTION")
    if rtx:
        trt.ComputeCapability = _enum("CURRENT", "SM86", "SM89")
    trt.ILogger = type("ILogger", (), {"WARNING": "WARNING"})
    if not typed_only:
        trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    if rtx or number >= (10,):
        trt.IProgressMonitor = type("IProgressMonitor", (), {})
    settable = _settable(number, typed_only=typed_only, rtx=rtx)
    trt.Builder = lambda logger: _Builder(trt, script, logger, settable)
    if not script.starts:
        trt.Builder = _null
    trt.OnnxParser = lambda network, logger: _Parser(script)
    return trt


def _null(logger: Any) -> Any:
    logger.log(
        SimpleNamespace(name="WARNING"), "Unable to determine the driver: CUDA initialization failure, error: 35"
    )
    raise TypeError("pybind11::init(): factory function returned nullptr")


def _called(back: Any, *values: Any, otherwise: Any = None) -> Any:
    """As TensorRT calls Python: what is raised there is printed and forgotten."""
    try:
        return back(*values)
    except BaseException as problem:
        print(f"[ERROR] Exception caught: {problem}")
        return otherwise


def _enum(*names: str) -> Any:
    return IntEnum("Enum", {name: number for number, name in enumerate(names)})


def _settable(number: tuple[int, ...], *, typed_only: bool, rtx: bool) -> set[str]:
    """The properties of a builder's configuration."""
    names = {"profiling_verbosity", "avg_timing_iterations", "default_device_type", "DLA_core"}
    names |= {"builder_optimization_level"} if rtx or number >= (8, 6) else set()
    names |= {"progress_monitor"} if rtx or number >= (10,) else set()
    names |= set() if typed_only else {"int8_calibrator"}
    return names | ({"num_compute_capabilities"} if rtx else set())


class _Parser:
    def __init__(self, script: Script) -> None:
        self._errors = script.parser_errors
        self.num_errors = len(script.parser_errors)

    def parse(self, _model: bytes) -> bool:
        return not self._errors

    def get_error(self, index: int) -> str:
        return self._errors[index]


class _Builder:
    def __init__(self, trt: Any, script: Script, logger: Any, settable: set[str]) -> None:
        self._trt, self._script, self._logger, self._settable = trt, script, logger, settable
        self.num_DLA_cores = script.dla_cores

    def create_network(self, flags: int) -> Any:
        self._script.network_flags = flags
        pixels, kinds = self._script.pixels, self._trt.LayerType
        layers = [SimpleNamespace(type=k) for k in (kinds.CAST, kinds.SHUFFLE, kinds.CONVOLUTION, kinds.SHUFFLE)]
        return SimpleNamespace(get_input=lambda _: pixels, num_layers=len(layers), get_layer=layers.__getitem__)

    def create_builder_config(self) -> Any:
        return _Config(self._trt, self._script, self._settable)

    def create_optimization_profile(self) -> Any:
        def set_shape(name: str, *shapes: tuple[int, ...]) -> None:
            assert name == "pixels"
            self._script.shapes = shapes

        return SimpleNamespace(set_shape=set_shape)

    def build_serialized_network(self, _network: Any, config: Any) -> bytes | None:
        if calibrator := self._script.settings.get("int8_calibrator"):
            self._script.calibration = calibrator.read_calibration_cache()
            if self._script.calibration is None:
                self._calibrate(calibrator)
        for line in self._script.log:
            _called(self._logger.log, SimpleNamespace(name="VERBOSE"), line)
        monitor = self._script.settings.get("progress_monitor")
        if monitor and not _play(monitor):
            return None
        self._script.built = True
        if self._script.build_fails_with:
            self._logger.log(SimpleNamespace(name="ERROR"), self._script.build_fails_with)
            return None
        return b"plan of " + self._trt.__version__.encode()

    def _calibrate(self, calibrator: Any) -> None:
        assert self._script.pixels.dtype.name == "FLOAT", "TensorRT hands on float32 alone"
        while len(self._script.calibrated_on) < self._script.takes and (
            addresses := _called(calibrator.get_batch, ["pixels"])
        ):
            self._script.calibrated_on += addresses
        calibrator.write_calibration_cache(memoryview(self._script.found_scales))


class _Config:
    def __init__(self, trt: Any, script: Script, settable: set[str]) -> None:
        object.__setattr__(self, "_trt", trt)
        object.__setattr__(self, "_script", script)
        object.__setattr__(self, "_settable", settable)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._settable:
            raise AttributeError(f"'IBuilderConfig' object has no attribute '{name}'")
        self._script.settings[name] = value

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._script.settings[pool.name] = size

    def set_device_type(self, layer: Any, device: Any) -> None:
        assert device.name == "GPU"
        self._script.on_the_gpu.append(layer.type.name)

    def set_flag(self, flag: Any) -> None:
        self._script.flags.append(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._script.cleared.append(flag.name)

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self._script.settings[f"compute capability {index}"] = capability.name

    def add_optimization_profile(self, _profile: Any) -> None:
        self._script.settings["profile"] = True

    def set_calibration_profile(self, _profile: Any) -> None:
        self._script.settings["calibration profile"] = True

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data)

    def set_timing_cache(self, cache: Any, _ignore_mismatch: bool) -> bool:
        accepted = not (cache.data and self._script.foreign_timing_cache)
        if accepted:
            self._script.timing_caches.append(cache.data)
        return accepted

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"learned")


def _play(monitor: Any) -> bool:
    """A build of two steps with a phase inside; whether it was not ended on the way."""
    _called(monitor.phase_start, "building", None, 2)
    _called(monitor.phase_start, "timing", "building", 1)
    if not _called(monitor.step_complete, "timing", 0, otherwise=False):
        return False
    _called(monitor.phase_finish, "timing")
    if not _called(monitor.step_complete, "building", 0, otherwise=False):
        return False
    _called(monitor.phase_finish, "building")
    return True
