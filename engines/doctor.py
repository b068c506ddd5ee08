"""What this machine can build and run, what is missing, and the command that mends it.

Packages are looked for and not imported: a heavy or a broken one costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from googlenet_edge.console import BUILD_PACKAGES
from googlenet_edge.engines.circumstances import Circumstances, read_circumstances
from googlenet_edge.engines.devices import jetpack_with, profile_of
from googlenet_edge.engines.jetson import Jetson
from googlenet_edge.engines.registry import BACKENDS, GPU_PROVIDERS, IN_ITS_PLACE, providers_here
from googlenet_edge.engines.sensors import OpenSensor, Sensor, find_sensors
from googlenet_edge.processor import Processor, read_processor
from googlenet_edge.target import Device, EngineName

Installed = Callable[[str], str | None]
"""The version of a package that could be imported, by the name of its module; None where it is not there."""

Providers = Callable[[], tuple[EngineName, ...]]
"""The engines whose provider lies beside ONNX Runtime."""

_RUNTIMES = tuple(backend.name for backend in BACKENDS if backend.device is Device.CPU)
_MEND_RUNTIMES = {EngineName.OPENVINO: "pip install 'googlenet-edge[openvino]'"}
_CUDA = "/usr/local/cuda"
_MEND_PYCUDA = f"PATH={_CUDA}/bin:$PATH CPATH={_CUDA}/include LIBRARY_PATH={_CUDA}/lib64 pip install pycuda"


class State(Enum):
    """How a finding is meant."""

    GOOD = "ok"
    NOTE = "note"
    """It works, but not as well as it could, or not for everything."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``mend`` is a command, where there is one that helps."""

    topic: str
    state: State
    says: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """This machine.

    ``device`` is the Jetson that it is, else the processor. ``builds`` says whether it can train, export, calibrate and
    build; ``runs`` names the engines that are installed.
    """

    device: Device
    builds: bool
    runs: tuple[EngineName, ...]
    findings: tuple[Finding, ...]


def installed(module: str) -> str | None:
    """See `Installed`; as onnxruntime-gpu gives ``onnxruntime``. The version is "unknown" where no package tells."""
    try:
        return version(module) if find_spec(module) else None
    except PackageNotFoundError:
        packages = packages_distributions().get(module)
        return version(packages[0]) if packages else "unknown"
    except (ImportError, ValueError):
        return None


def examine(root: Path, *, installed: Installed = installed, providers: Providers = providers_here) -> Diagnosis:
    """Looks at the machine whose file system has this root."""
    here = read_circumstances(root)
    has_gpu = _has_gpu(root, here.jetson)
    gpu_engines = providers() if has_gpu else ()
    has_tensorrt = installed("tensorrt") or installed("tensorrt_rtx")
    by_tensorrt = (EngineName.TENSORRT,) if has_gpu and has_tensorrt and installed("pycuda") else ()
    device = (here.jetson and here.jetson.device) or Device.CPU
    return Diagnosis(
        device=device,
        builds=all(map(installed, BUILD_PACKAGES)),
        runs=(*(name for name in _RUNTIMES if installed(name.value)), *by_tensorrt, *gpu_engines),
        findings=(
            _machine(here),
            *(_jetson(root, here.jetson) if here.jetson else ()),
            *([_gpu(here)] if here.gpu else ()),
            _governor(here),
            _integers(read_processor(root / "proc/cpuinfo")),
            *(_runtime(name, installed) for name in _RUNTIMES),
            _build(installed),
            *_tensorrt(root, here.jetson, installed, gpu_engines),
        ),
    )


def _machine(here: Circumstances) -> Finding:
    memory = f", {here.memory_mb / 1e3:.1f} GB" if here.memory_mb else ""
    says = (
        f"{here.cpu_model or 'an unknown processor'}, {here.cores} cores{memory}; {here.system}; Python {here.python}"
    )
    return Finding("machine", State.GOOD, says)


def _gpu(here: Circumstances) -> Finding:
    return Finding("GPU", State.GOOD, f"{here.gpu}, driver {here.packages.get('nvidia-driver') or 'not found'}")


def _governor(here: Circumstances) -> Finding:
    if here.governor is None:
        return Finding("clocks", State.NOTE, "the processor's clock governor is hidden, as in a virtual machine")
    if here.governor == "performance":
        return Finding("clocks", State.GOOD, "the processor's clock governor is performance")
    if here.cpu_clock_is_fixed:
        return Finding("clocks", State.GOOD, "the processor's clock is fixed")
    by_hand = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    mend = "sudo jetson_clocks" if here.jetson else by_hand
    return Finding("clocks", State.NOTE, f"the governor {here.governor} moves the clock, so figures vary", mend)


def _integers(processor: Processor) -> Finding:
    if processor.saturates_u8s8:
        says = "no VNNI: 16-bit sums saturate with 8-bit weights, so onnxruntime's int8 models get 7-bit weights here"
        return Finding("int8", State.NOTE, says)
    if processor.has_int8_tiles:
        says = "AMX multiplies 8-bit weights, which openvino makes the most of; let a build time both engines"
        return Finding("int8", State.NOTE, says, "gnet-edge build --precision int8 --engine auto")
    return Finding("int8", State.GOOD, "sums do not saturate, so weights have all 8 bits")


def _runtime(name: EngineName, installed: Installed) -> Finding:
    topic = f"engine {name.value}"
    if found := installed(name.value):
        return Finding(topic, State.GOOD, f"version {found}: fp32, fp16 (storage only) and int8 on this processor")
    mend = _MEND_RUNTIMES.get(name, f"pip install {name.value}")
    return Finding(topic, State.MISSING, "not installed; its bundles cannot be built or run here", mend)


def _build(installed: Installed) -> Finding:
    found = {name: installed(name) for name in BUILD_PACKAGES}
    missing = [name for name, present in found.items() if not present]
    if missing:
        says = f"{', '.join(missing)} not installed; this machine runs bundles, but cannot train or build them"
        return Finding("build", State.MISSING, says, "pip install 'googlenet-edge[build]'")
    names = ", ".join(f"{name} {present}" for name, present in found.items())
    return Finding("build", State.GOOD, f"train, export, calibrate and build ({names})")


def _has_gpu(root: Path, jetson: Jetson | None) -> bool:
    """Under WSL, Windows has the driver, and only its library is here."""
    places = "proc/driver/nvidia/version", "usr/lib/wsl/lib/libcuda.so.1"
    return jetson is not None or any((root / place).is_file() for place in places)


def _tensorrt(
    root: Path, jetson: Jetson | None, installed: Installed, gpu_engines: tuple[EngineName, ...]
) -> Iterator[Finding]:
    """What stands between this machine and TensorRT; one note where it has no NVIDIA GPU at all."""
    if not _has_gpu(root, jetson):
        yield Finding("TensorRT", State.NOTE, "no NVIDIA GPU here; plans are built and run on the device they are for")
        return
    tensorrt = _python_tensorrt(jetson, installed)
    yield tensorrt
    if found := installed("pycuda"):
        yield Finding("pycuda", State.GOOD, f"version {found}")
    elif tensorrt.state is State.GOOD or tensorrt.mend:
        yield Finding("pycuda", State.MISSING, "not installed; plans cannot be run", _MEND_PYCUDA)
    mend = IN_ITS_PLACE if jetson is None and tensorrt.state is not State.GOOD else None
    yield from (_provider(provider.engine, gpu_engines, mend=mend) for provider in GPU_PROVIDERS)


def _provider(name: EngineName, here: tuple[EngineName, ...], *, mend: str | None) -> Finding:
    """A way to run bundles for TensorRT without its own Python package."""
    topic = f"engine {name.value}"
    if name in here:
        return Finding(topic, State.GOOD, f"ONNX Runtime has the provider; --engine {name.value} uses it")
    says = "this ONNX Runtime has no such provider; onnxruntime-gpu has, on a Jetson NVIDIA's wheel for its JetPack"
    return Finding(topic, State.NOTE, says, mend)


def _python_tensorrt(jetson: Jetson | None, installed: Installed) -> Finding:
    if found := installed("tensorrt"):
        return Finding("TensorRT", State.GOOD, f"version {found}")
    if found := installed("tensorrt_rtx"):
        return Finding("TensorRT", State.GOOD, f"for RTX, version {found}")
    if jetson is None:
        return Finding("TensorRT", State.MISSING, "there is an NVIDIA GPU and no TensorRT", "pip install tensorrt")
    if jetson.tensorrt is None:
        return Finding("TensorRT", State.MISSING, "not installed", "sudo apt install nvidia-jetpack")
    jetpack = jetpack_with(jetson.tensorrt)
    python = jetpack.python if jetpack else "3"
    if jetpack and not jetpack.runs_bundles:
        says = f"version {jetson.tensorrt} is for Python {python}, which is too old for this tool; bundles for cpu run"
        return Finding("TensorRT", State.MISSING, says)
    says = f"version {jetson.tensorrt} is installed, but this Python does not see it"
    return Finding("TensorRT", State.MISSING, says, f"python{python} -m venv --system-site-packages .venv")


def _jetson(root: Path, jetson: Jetson) -> Iterator[Finding]:
    title = profile_of(jetson.device).title if jetson.device else "a module that this version does not know"
    yield Finding("Jetson", State.GOOD if jetson.device else State.NOTE, f"{title}; {jetson}")
    if jetson.gpu_clock and not jetson.gpu_clock.locked:
        says = f"the GPU's clock moves ({jetson.gpu_clock}), so figures vary"
        yield Finding("GPU clock", State.NOTE, says, "sudo jetson_clocks")
    sensors = find_sensors(root)
    silent = [sensor.name for sensor in sensors.power if sensor.name in sensors.total and not _speaks(sensor)]
    if silent or not sensors.total:
        reason = f"{', '.join(silent)} cannot be read" if silent else "there is no sensor"
        yield Finding("power", State.NOTE, f"cannot be measured: {reason}")
    else:
        yield Finding("power", State.GOOD, f"measured at {', '.join(sensors.total)}")


def _speaks(sensor: Sensor) -> bool:
    with closing(OpenSensor(sensor)) as opened:
        return opened.read() is not None
