"""ONNX Runtime's providers for NVIDIA GPUs: what each is called and needs, and whether it is here. Loads no runtime."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from googlenet_edge.target import EngineName

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
