"""The CUDA device through pycuda: its primary context, which TensorRT uses too, memory, streams and events.

The primary context is retained and given back, pushed for each use and popped after it, so that any thread may use it;
`pycuda.autoinit` binds one context to one thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.errors import EngineError

_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING``: what others do on the default stream is neither waited for nor in the way."""

_RESOLUTION_MS = 0.0005
"""Of events; shorter is not told from nothing."""


def load_driver() -> Any:
    """``pycuda.driver``, initialized. Raises `EngineError` where it is not installed, or there is no GPU for it."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as problem:
        raise EngineError(
            f"pycuda cannot be loaded ({problem}); install it beside the CUDA toolkit with: pip install pycuda, or use"
            " --engine simulated"
        ) from problem
    try:
        driver.init()
        count = driver.Device.count()
    except Exception as problem:  # pycuda's errors derive from Exception alone
        raise EngineError(f"CUDA cannot start ({problem}); check the driver with nvidia-smi or tegrastats") from problem
    if count == 0:
        raise EngineError("CUDA finds no GPU; check the driver, and that this user may open /dev/nvidia*")
    return driver


class CudaDevice:
    """The first GPU, from `load_driver` to `close`."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._device = driver.Device(0)
        self._context = self._device.retain_primary_context()

    @property
    def name(self) -> str:
        """Such as ``Orin, 8 SMs, compute capability 8.7``: what a plan is built for; every Orin calls itself that."""
        count = self._device.get_attribute(self.driver.device_attribute.MULTIPROCESSOR_COUNT)
        capability = ".".join(map(str, self._device.compute_capability()))
        return f"{self._device.name()}, {count} SMs, compute capability {capability}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the current device of this thread inside the block."""
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    def close(self) -> None:
        """Gives the primary context back. All memory must be free before."""
        self._context.detach()


class Buffer:
    """An array in page-locked memory, and as much memory on the device. Made and freed while the device is current."""

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Raises `EngineError` where there is not so much memory."""
        self._driver = driver
        try:
            self.host: NDArray[Any] = driver.pagelocked_empty(shape, np.dtype(dtype))
            self._memory = driver.mem_alloc(self.host.nbytes)
        except Exception as problem:  # as above
            raise EngineError(
                f"the GPU has no memory for a batch of {shape[0]} ({problem}); close other programs, or use fewer"
                " streams"
            ) from problem

    @property
    def address(self) -> int:
        """On the device."""
        return int(self._memory)

    def to_device(self, stream: Any, count: int) -> None:
        """Copies the first ``count`` rows, when the stream comes to it."""
        self._driver.memcpy_htod_async(self._memory, self.host[:count], stream)

    def to_host(self, stream: Any, count: int) -> None:
        """The other way."""
        self._driver.memcpy_dtoh_async(self.host[:count], self._memory, stream)

    def free(self) -> None:
        """Gives both back."""
        self._memory.free()
        self.host.base.free()  # type: ignore[union-attr]  # (pycuda's allocation)


def new_stream(driver: Any) -> Any:
    """A queue of work of its own. Made while the device is current. Raises `EngineError` where it has no memory."""
    try:
        return driver.Stream(_NON_BLOCKING)
    except Exception as problem:  # as above
        raise EngineError(f"the GPU has no memory for a stream ({problem}); close other programs") from problem


class Timeline:
    """Events between the stages of one inference on a stream. Made and dropped while the device is current."""

    def __init__(self, driver: Any) -> None:
        """Raises `EngineError` where there is no memory for them."""
        try:
            self._events = [driver.Event() for _ in range(len(DeviceStage) + 1)]
        except Exception as problem:  # as above
            raise EngineError(f"the GPU has no memory for events ({problem}); close other programs") from problem

    def mark(self, place: int, stream: Any) -> None:
        """The moment at which the stream comes to it: place 0 is before the first stage, 1 after it, and so on."""
        self._events[place].record(stream)

    def times_ms(self) -> dict[DeviceStage, float]:
        """What lies between the marks, once the stream was waited for."""
        pairs = pairwise(self._events)
        return {
            stage: max(float(end.time_since(start)), _RESOLUTION_MS)
            for stage, (start, end) in zip(DeviceStage, pairs, strict=True)
        }
