"""From a lowered graph to a plan, by TensorRT 8.5, 8.6, 10, 11 or TensorRT for RTX: one way, with named branches.

| | 8.5, 8.6 | 10 | 8.5 to 10.7 on a DLA | 11, RTX |
|---|---|---|---|---|
| network | EXPLICIT_BATCH | STRONGLY_TYPED | EXPLICIT_BATCH below 10 | STRONGLY_TYPED |
| FP16, INT8 | flags | types in the graph | flags | types in the graph |
| INT8 on a DLA | a calibration cache | – | a calibration cache | no DLA |
| optimization level | from 8.6 | yes | yes | yes |
| timing cache | yes | yes | yes | not RTX |
| progress | no | yes | yes | yes |

"TensorRT 10.7 was the last 10.x release that supported DLA"; 11.4.1 has it again for strongly typed networks, which are
not lowered for a DLA here (NVIDIA, "Working with DLA", 11.4.1). Enumerators are looked up by name when they are used:
TensorRT 11 renumbered them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.devices import Version
from googlenet_edge.engines.tensorrt_layers import Placement, PlanLayer, layers_in_log, placement_in_log
from googlenet_edge.engines.tensorrt_library import (
    Flavour,
    Library,
    calibrator_of,
    errors_in,
    listening,
    logger_of,
    monitor_of,
    shape_of,
    started,
)
from googlenet_edge.errors import EngineError
from googlenet_edge.files import sha256_bytes, to_json
from googlenet_edge.target import Precision, Unit

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)
_FIRST_WITH_LEVELS: Version = (8, 6)
_FIRST_WITHOUT_DLA: Version = (10, 8)


@dataclass(frozen=True, slots=True)
class Batches:
    """How many images a plan takes: it is fastest at ``usual``. A DLA wants all three equal."""

    least: int = 1
    usual: int = 1
    most: int = 1


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to build.

    Attributes:
        model: the bytes of an ONNX file that `lower_tensorrt` made.
        workspace_bytes: the most memory that a kernel may use beside its tensors.
        level: how long TensorRT searches, 0 to 5; 3 is its default.
        dla_core: which DLA, where ``unit`` is that.
        calibration_cache: for INT8 on a DLA; empty otherwise.
        targets: for TensorRT for RTX, the generations of GPU to build for, such as ``SM86``; empty for the GPU at hand.
    """

    model: bytes = field(repr=False)
    precision: Precision
    workspace_bytes: int
    batches: Batches = Batches()
    level: int = 3
    unit: Unit = Unit.MAIN
    dla_core: int = 0
    calibration_cache: bytes = field(default=b"", repr=False)
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on: one that was built for another key must not be loaded.

    ``gpu`` names the GPU that it was built on, such as ``Orin, 8 SMs, compute capability 8.7``; empty where there was
    none.
    """

    library: str
    gpu: str
    model_sha256: str
    calibration_sha256: str
    precision: Precision
    unit: Unit
    dla_core: int
    batches: Batches
    workspace_bytes: int
    level: int
    targets: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """One word for all of it."""
        return sha256_bytes(to_json(self))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A built plan. ``data`` is raw, as TensorRT wants it; all that is known of it stands beside it.

    ``layers`` is empty where TensorRT logs none. ``timing_cache`` is what it learned about kernels on this device.
    """

    key: PlanKey
    data: bytes = field(repr=False)
    layers: tuple[PlanLayer, ...] = field(repr=False)
    placement: Placement
    timing_cache: bytes = field(repr=False)
    seconds: float


class Recipe(Enum):
    """How a TensorRT is told the precision of a network."""

    TYPED = "typed"
    """By the types in the graph."""
    FLAGGED = "flagged"
    """By flags that allow it; pairs in the graph say where INT8 is."""
    CALIBRATED = "calibrated"
    """By flags, with a calibration cache in the place of pairs."""


def key_of(library: Library, request: PlanRequest, *, gpu: str) -> PlanKey:
    """The key of the plan that this TensorRT builds on this GPU for this request."""
    return PlanKey(
        library=str(library),
        gpu=gpu,
        model_sha256=sha256_bytes(request.model),
        calibration_sha256=sha256_bytes(request.calibration_cache),
        precision=request.precision,
        unit=request.unit,
        dla_core=request.dla_core,
        batches=request.batches,
        workspace_bytes=request.workspace_bytes,
        level=request.level,
        targets=request.targets,
    )


def recipe_for(library: Library, request: PlanRequest) -> Recipe:
    """The recipe for a request. Raises `EngineError` for what this TensorRT cannot build."""
    on_dla = request.unit is Unit.DLA
    if on_dla and (library.flavour is Flavour.RTX or library.version >= _FIRST_WITHOUT_DLA):
        raise EngineError(
            f"a DLA needs TensorRT 8.5 to 10.7 (JetPack 6), and this is {library}; build for the GPU: leave --dla out"
        )
    if on_dla and request.precision is Precision.INT8:
        return Recipe.CALIBRATED
    return Recipe.FLAGGED if on_dla or not library.strongly_typed else Recipe.TYPED


def cache_for(version: Version, written: bytes) -> bytes:
    """A calibration cache with the header of TensorRT 8 to 10 that reads it: the scales are the same in all of them."""
    major, minor, patch = (*version, 0, 0)[:3]
    number = major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch
    return b"TRT-%d-EntropyCalibration2\n" % number + written.partition(b"\n")[2]


def build_plan(
    library: Library,
    request: PlanRequest,
    *,
    gpu: str = "",
    timing_cache: bytes = b"",
    calibrator: Any = None,
    progress: Progress | None = None,
) -> Plan:
    """Builds a plan: seconds to many minutes, on the device that will run it, or for RTX, anywhere.

    Args:
        gpu: the name of the GPU at hand, for the key.
        timing_cache: from an earlier plan of the same TensorRT on the same device; makes the build faster.
        calibrator: with images, in the place of the request's calibration cache; see `calibrator_of`. The plan then
            takes its pixels as float32, as TensorRT hands on only those (Polygraphy's calibrator casts all inputs).

    Raises:
        EngineError: TensorRT refuses the graph or cannot build it; with its own words.
        CalibrationError: the calibration cache is damaged.
    """
    recipe = recipe_for(library, request)
    trt, start = library.trt, time.perf_counter()
    with listening(library) as lines:
        builder = started(trt.Builder, library, lines)
        if request.unit is Unit.DLA and builder.num_DLA_cores <= request.dla_core:
            raise EngineError(
                f"{library} finds no DLA core {request.dla_core} here; build for the GPU: leave --dla out"
            )
        network = builder.create_network(_network_flags(library, recipe))
        parser = trt.OnnxParser(
            network, logger_of(library.module)
        )  # owns the weights: it must live until the plan is built
        _parse(library, parser, request.model)
        if calibrator is not None:
            network.get_input(0).dtype = trt.DataType.FLOAT
        config = builder.create_builder_config()
        _configure(library, recipe, config, request)
        if request.unit is Unit.DLA:
            _leave_pixels_to_the_gpu(library, network, config)
        profile = _profile(builder, network, request.batches)
        config.add_optimization_profile(profile)
        if recipe is Recipe.CALIBRATED:
            calibrator = calibrator or calibrator_of(library, cache_for(library.version, request.calibration_cache))
            config.set_calibration_profile(profile)
            config.int8_calibrator = calibrator  # TensorRT does not keep it alive
        _use_timing_cache(library, config, timing_cache)
        monitor = monitor_of(library, progress or _untold)
        if monitor is not None:
            config.progress_monitor = monitor
        data = builder.build_serialized_network(network, config)
        if data is None:
            raise EngineError(f"{library} could not build the plan: {errors_in(lines)}")
        del calibrator, monitor, parser  # what TensorRT read while it built
        learned = _learned(library, config)
        layers, placement = layers_in_log(lines), placement_in_log(lines)
    seconds = time.perf_counter() - start
    if request.unit is Unit.DLA and not placement.dla:
        _log.warning("%s puts nothing on the DLA, so the GPU computes all of it", library)
    return Plan(key_of(library, request, gpu=gpu), bytes(data), layers, placement, learned, seconds)


def _network_flags(library: Library, recipe: Recipe) -> int:
    """The bits of `create_network`. 10 and later are of explicit batch without being told."""
    known = library.trt.NetworkDefinitionCreationFlag
    if recipe is Recipe.TYPED:
        return 1 << int(known.STRONGLY_TYPED)
    return 1 << int(known.EXPLICIT_BATCH) if library.version < (10,) else 0


def _parse(library: Library, parser: tensorrt.OnnxParser, model: bytes) -> None:
    if not parser.parse(model):
        reasons = "; ".join(" ".join(str(parser.get_error(i)).split()) for i in range(parser.num_errors))
        raise EngineError(
            f"{library} does not read the graph: {reasons or 'the parser gave no reason'}; build a bundle for this"
            " device"
        )


def _configure(library: Library, recipe: Recipe, config: tensorrt.IBuilderConfig, request: PlanRequest) -> None:
    """Sets all that does not depend on the network."""
    trt = library.trt
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.avg_timing_iterations = 8  # of each kernel, as trtexec; by default one run decides
    if library.flavour is Flavour.RTX or library.version >= _FIRST_WITH_LEVELS:
        config.builder_optimization_level = request.level
    config.clear_flag(trt.BuilderFlag.TF32)  # on unless it is cleared; float32 means float32
    for name in _precision_flags(recipe, request.precision):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if request.unit is Unit.DLA:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = request.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if request.targets:
        _aim(library, config, request.targets)


def _leave_pixels_to_the_gpu(library: Library, network: Any, config: Any) -> None:
    """All before the first convolution: a DLA would transpose the pixels, and the GPU subtract and divide after it."""
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type == library.trt.LayerType.CONVOLUTION:
            return
        config.set_device_type(layer, library.trt.DeviceType.GPU)


def _precision_flags(recipe: Recipe, precision: Precision) -> tuple[str, ...]:
    """Beside INT8, FP16 is allowed for what stays float."""
    if recipe is Recipe.TYPED or precision is Precision.FP32:
        return ()
    return ("FP16", "INT8") if precision is Precision.INT8 else ("FP16",)


def _profile(
    builder: tensorrt.Builder, network: tensorrt.INetworkDefinition, batches: Batches
) -> tensorrt.IOptimizationProfile:
    profile, pixels = builder.create_optimization_profile(), network.get_input(0)
    image = shape_of(pixels.shape)[1:]
    if batches.least == batches.most:  # a DLA takes no open dimension
        pixels.shape = (batches.most, *image)  # pyright: ignore[reportAttributeAccessIssue]  (as below)
    least, usual, most = ((count, *image) for count in (batches.least, batches.usual, batches.most))
    profile.set_shape(pixels.name, least, usual, most)  # pyright: ignore[reportArgumentType]  (tuples are taken, too)
    return profile


def _aim(library: Library, config: Any, targets: tuple[str, ...]) -> None:
    """Builds for generations of GPUs in the place of the one at hand."""
    known = library.module.ComputeCapability.__members__  # RTX's alone, as the two calls below
    for name in targets:
        if name not in known:
            raise EngineError(f"this TensorRT for RTX builds for no {name}; it knows: {', '.join(known)}")
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(targets):
        config.set_compute_capability(known[name], index)


def _use_timing_cache(library: Library, config: tensorrt.IBuilderConfig, stored: bytes) -> None:
    """Takes up a timing cache; a damaged one, or one of another device, is left aside and a new one begun."""
    if library.flavour is Flavour.RTX:
        return  # it has none
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, False):
        _log.warning("the timing cache is of another device or damaged; TensorRT times all kernels again")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _learned(library: Library, config: tensorrt.IBuilderConfig) -> bytes:
    cache = None if library.flavour is Flavour.RTX else config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def _untold(_done: int, _total: int) -> None:
    """Progress that nobody watches."""
