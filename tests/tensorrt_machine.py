"""A Jetson that is not there, with one version of TensorRT, for tests of the runtime's own code."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cuda import Gpu, Runtime, add_runtime
from fake_cuda_graph import Libcuda
from fake_tensorrt import Script, fake_tensorrt
from numpy.typing import NDArray

from googlenet_edge.engines import cuda_device
from googlenet_edge.engines.devices import profile_of
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.tensorrt_runtime import TensorRtEngine, open_tensorrt
from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device, Precision


class Machine:
    """What is wrong with it is said before it is used."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str = "10.3.0", *, device: Device = Device.AGX_ORIN) -> None:
        self.gpu, self.wrong, self.script, self.device = Gpu(), Runtime(), Script(), device
        rtx = device is Device.RTX
        trt = fake_tensorrt(version, self.script, rtx=rtx)
        add_runtime(trt, self.gpu, self.wrong)
        self.libcuda: Any = Libcuda(self.gpu)
        patch.setitem(sys.modules, "tensorrt_rtx" if rtx else "tensorrt", trt)
        package: Any = ModuleType("pycuda")
        package.__spec__ = ModuleSpec("pycuda", None)
        patch.setitem(sys.modules, "pycuda", package)
        patch.setitem(sys.modules, "pycuda.driver", self.gpu.driver())
        patch.setattr(cuda_device, "CDLL", self._library)

    def open(self, streams: int = 1, *, calibration_cache: bytes = b"") -> TensorRtEngine:
        options = EngineOptions(streams=streams, precision=Precision.INT8, calibration_cache=calibration_cache)
        return open_tensorrt(profile_of(self.device), b"graph", options)

    def refusal(self, streams: int = 1) -> str:
        with pytest.raises(EngineError) as caught:
            self.open(streams)
        message = str(caught.value)
        del caught
        gc.collect()
        assert self.gpu.retained == 0
        return message

    def told(self) -> list[str]:
        """What the GPU was told since the last look."""
        calls, self.gpu.calls = self.gpu.calls, []
        return calls

    def _library(self, name: str) -> Any:
        assert name == "libcuda.so.1"
        if self.libcuda is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return self.libcuda


@contextmanager
def machine_at(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Machine]:
    """A Jetson, which must have everything back at the end."""
    patch.setenv("XDG_CACHE_HOME", str(cache))
    made = Machine(patch)
    yield made
    if made.gpu.streams:
        gc.collect()  # errors, which hold the frames that they came through
    assert not made.gpu.streams
    assert made.gpu.retained == 0
    assert getattr(made.gpu.current, "depth", 0) == 0


def batch(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def means(pixels: NDArray[np.uint8]) -> Any:
    """What the network of the fake gives."""
    return pytest.approx(pixels.mean(axis=(1, 2)), rel=1e-5)
