"""The known backends. A new one is a module with a class, one entry in `BACKENDS`, and the shared contract tests.

And ONNX Runtime's providers for NVIDIA GPUs: what each is called and needs, and whether it is here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bundle import Bundle, Manifest, check_golden
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.jetson import is_jetson
from googlenet_edge.engines.protocol import Engine, EngineOptions
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device, EngineName, Unit

IN_ITS_PLACE = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
"""Both packages bring the module ``onnxruntime``: with both installed, the later one overwrote the other."""


@dataclass(frozen=True, slots=True)
class GpuProvider:
    """``order`` is what a session is given, the preferred first; ``library`` lies beside the runtime."""

    engine: EngineName
    order: tuple[str, ...]
    library: str
    needs: str

    @property
    def name(self) -> str:
        """As ONNX Runtime calls it."""
        return self.order[0]


CUDA = GpuProvider(
    EngineName.ONNXRUNTIME_CUDA, ("CUDAExecutionProvider",), "libonnxruntime_providers_cuda.so", "CUDA and cuDNN"
)
TENSORRT = GpuProvider(
    EngineName.ONNXRUNTIME_TENSORRT,
    ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "libonnxruntime_providers_tensorrt.so",
    "CUDA and TensorRT",
)
GPU_PROVIDERS = (TENSORRT, CUDA)


def library_of(provider: GpuProvider) -> Path | None:
    """The provider's library beside the ONNX Runtime that is installed; None where it has none."""
    try:
        found = find_spec("onnxruntime")
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    library = Path(found.origin).parent / "capi" / provider.library
    return library if library.is_file() else None


def providers_here() -> tuple[EngineName, ...]:
    """The engines whose provider lies beside ONNX Runtime. Whether its CUDA is there shows when it is opened."""
    return tuple(provider.engine for provider in GPU_PROVIDERS if library_of(provider))


def why_not_loaded(library: Path | None) -> str:
    """What the system's loader says of a provider that ONNX Runtime could not load; it names the missing library."""
    if library is None:
        return "its library is missing"
    try:
        ctypes.CDLL(str(library))
    except OSError as problem:
        return str(problem)
    return "its libraries are there; is there a GPU, and a driver that is new enough?"


Opener = Callable[[bytes, EngineOptions], Engine]
"""The bytes of a lowered model → an open engine; raises `EngineError` where the runtime refuses it."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A runtime that executes models lowered for one device."""

    name: EngineName
    device: Device
    load: Callable[[], Opener]
    """Imports the runtime. Raises `EngineError` where it is not installed."""

    def open(self, model: bytes, options: EngineOptions) -> Engine:
        """Opens the bytes of a lowered model. Raises `EngineError` where the runtime is missing or refuses it."""
        return self.load()(model, options)


def _onnxruntime_cpu() -> Opener:
    from googlenet_edge.engines.onnxruntime_cpu import OnnxRuntimeCpu  # noqa: PLC0415  (a runtime is loaded when used)

    return OnnxRuntimeCpu


def _openvino_cpu() -> Opener:
    try:
        from googlenet_edge.engines.openvino_cpu import OpenVinoCpu  # noqa: PLC0415  (as above)
    except ImportError as problem:
        raise EngineError(
            f"the engine openvino cannot be loaded ({problem}); install it with:"
            " pip install 'googlenet-edge[openvino]', or choose another engine"
        ) from problem
    return OpenVinoCpu


def _simulated() -> Opener:
    from googlenet_edge.engines.onnxruntime_cpu import Simulated  # noqa: PLC0415  (as above)

    return Simulated


def _onnxruntime_gpu(provider: GpuProvider, device: Device) -> Opener:
    from googlenet_edge.engines.onnxruntime_gpu import open_on_gpu  # noqa: PLC0415  (as above)

    return partial(open_on_gpu, provider, profile_of(device))


def _tensorrt(device: Device) -> Opener:
    from googlenet_edge.engines.tensorrt_runtime import open_tensorrt  # noqa: PLC0415  (as above)

    return partial(open_tensorrt, profile_of(device))


BACKENDS: tuple[Backend, ...] = (
    Backend(EngineName.ONNXRUNTIME, Device.CPU, _onnxruntime_cpu),
    Backend(EngineName.OPENVINO, Device.CPU, _openvino_cpu),
)
"""In the order of preference: the first of a device is its default."""

SIMULATION = Backend(EngineName.SIMULATED, Device.CPU, _simulated)
"""On a processor, for whatever TensorRT will run."""

_FOR_DLA = (EngineName.TENSORRT, EngineName.SIMULATED)


def backends_for(device: Device) -> tuple[Backend, ...]:
    """The backends of a device, its default first. Raises `EngineError` for ``jetson``, which can be any."""
    if profile_of(device).has_tensorrt:
        providers = () if device is Device.RTX else GPU_PROVIDERS
        return (
            Backend(EngineName.TENSORRT, device, partial(_tensorrt, device)),
            *(Backend(each.engine, device, partial(_onnxruntime_gpu, each, device)) for each in providers),
            SIMULATION,
        )
    return tuple(backend for backend in BACKENDS if backend.device is device)


def default_to_build_with(device: Device) -> Backend:
    """The backend that judges a build: the device's default, or the simulation where TensorRT will run it."""
    return SIMULATION if profile_of(device).has_tensorrt else backends_for(device)[0]


def backend_for(device: Device, engine: EngineName | None = None) -> Backend:
    """A device's backend of that name, or its default. Raises `EngineError` where this version has none."""
    backends = backends_for(device)
    wanted = engine or backends[0].name
    for backend in backends:
        if backend.name is wanted:
            return backend
    known = ", ".join(backend.name.value for backend in backends)
    raise EngineError(f"the device {device.value} has no engine {wanted.value}; it has: {known}")


def engine_named(name: EngineName | str) -> EngineName:
    """The engine of a name such as ``openvino``. Raises `EngineError` where there is none."""
    try:
        return EngineName(name)
    except ValueError as problem:
        known = ", ".join(each.value for each in EngineName)
        raise EngineError(f"there is no engine {name!r}; give one of: {known}") from problem


def engine_here(manifest: Manifest) -> EngineName:
    """The runtime for which a bundle was built; where it was only simulated, TensorRT if that is installed here.

    On a Jetson, too, where it is not: there a simulation is not what anybody means, and the error says what is missing.
    """
    if manifest.engine is not EngineName.SIMULATED:
        return manifest.engine
    needed = ("tensorrt_rtx" if manifest.device is Device.RTX else "tensorrt", "pycuda")
    return EngineName.TENSORRT if is_jetson() or all(map(find_spec, needed)) else EngineName.SIMULATED


def open_bundle(
    bundle: Bundle,
    *,
    threads: int = 1,
    streams: int = 1,
    engine: EngineName | None = None,
    build: bool = True,
    progress: Progress | None = None,
) -> Engine:
    """Opens a bundle's model on its device and proves that it computes here what it computed where it was built.

    Args:
        threads: processor threads of one inference.
        streams: inferences that may run at the same time.
        engine: the runtime, by default as `engine_here`.
        build: whether a runtime that compiles models may do so now.
        progress: told how far that is, where the runtime tells.

    Raises:
        EngineError: the runtime is missing or refuses the model, or it is not compiled yet.
        BundleError: the model does not fit the bundle, or gives other logits for the golden vectors.
    """
    manifest = bundle.manifest
    options = EngineOptions(
        threads=threads,
        weight_bits=manifest.weight_bits,
        streams=streams,
        precision=manifest.precision,
        build=build,
        progress=progress,
        unit=manifest.unit,
        calibration_cache=bundle.calibration_cache,
    )
    backend = backend_for(manifest.device, engine or engine_here(manifest))
    if manifest.unit is Unit.DLA and backend.name not in _FOR_DLA:
        raise EngineError(
            f"{bundle.where} is for a DLA, which {backend.name.value} does not use; open it with tensorrt, or build one"
            " without --dla"
        )
    opened = backend.open(bundle.model, options)
    try:
        logits = opened.run(bundle.golden.pixels)
        check_golden(bundle.golden, logits, precision=manifest.precision, where=bundle.where, unit=manifest.unit)
    except BaseException:
        opened.close()
        raise
    return opened
