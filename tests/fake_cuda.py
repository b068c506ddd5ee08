"""A GPU that is not there: pycuda's driver and TensorRT's runtime, which work only when they are waited for.

What a stream is given runs when the stream is synchronized, as late as a real one might. So whoever reads too early
reads zeros. Every call must find the context current in its thread, and everything that is made must be given back.
The "network" gives the mean of each colour channel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass
class Gpu:
    """The driver, and what happened to it."""

    memory: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    free_bytes: int = 1 << 30
    devices: int = 1
    fault: str = ""
    retained: int = 0
    made: int = 0
    history: list[str] = field(default_factory=list)
    current: threading.local = field(default_factory=threading.local)

    def driver(self) -> Any:
        """``pycuda.driver``."""
        device = SimpleNamespace(
            name=lambda: "Orin", compute_capability=lambda: (8, 7), retain_primary_context=self._retain
        )
        device_class = SimpleNamespace(count=lambda: self.devices)
        return SimpleNamespace(
            init=lambda: None,
            Device=_Callable(lambda index: device, count=device_class.count),
            Context=SimpleNamespace(pop=self._pop),
            Stream=lambda: Stream(self),
            pagelocked_empty=self._pagelocked,
            mem_alloc=self._allocate,
            memcpy_htod_async=lambda to, source, stream: stream.later(lambda: self._write(to, source)),
            memcpy_dtoh_async=lambda to, source, stream: stream.later(lambda: self._read(to, source)),
        )

    def here(self) -> None:
        """Asserts that the context is current in this thread."""
        assert getattr(self.current, "depth", 0) == 1, "the context is not current in this thread"

    def _retain(self) -> Any:
        self.retained += 1
        return SimpleNamespace(push=self._push, detach=self._detach)

    def _push(self) -> None:
        self.current.depth = getattr(self.current, "depth", 0) + 1

    def _pop(self) -> None:
        self.here()
        self.current.depth -= 1

    def _detach(self) -> None:
        assert not self.memory, "memory was left on the device"
        self.retained -= 1
        self.history.append("device given back")

    def _pagelocked(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.here()
        allocation = np.zeros(shape, dtype).view(_Locked)
        return allocation[:]  # whose base can be freed

    def _allocate(self, size: int) -> Any:
        self.here()
        if size > self.free_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        self.free_bytes -= size
        self.made += 1
        address = self.made << 12
        self.memory[address] = np.zeros(size, np.uint8)
        return _Allocation(self, address)

    def _write(self, to: Any, source: np.ndarray[Any, Any]) -> None:
        data = np.frombuffer(np.ascontiguousarray(source).tobytes(), np.uint8)
        self.memory[int(to)][: data.size] = data

    def _read(self, to: np.ndarray[Any, Any], source: Any) -> None:
        to[...] = self.memory[int(source)][: to.nbytes].view(to.dtype).reshape(to.shape)


class _Callable:
    def __init__(self, call: Callable[[int], Any], **members: Any) -> None:
        self._call = call
        self.__dict__.update(members)

    def __call__(self, index: int) -> Any:
        return self._call(index)


class _Locked(np.ndarray[Any, Any]):
    """Page-locked memory."""

    def free(self) -> None:
        """pycuda's arrays are freed by their base."""


class _Allocation:
    def __init__(self, gpu: Gpu, address: int) -> None:
        self._gpu, self._address = gpu, address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._gpu.here()
        self._gpu.history.append("memory freed")
        del self._gpu.memory[self._address]


class Stream:
    """Work that waits until somebody waits for it."""

    def __init__(self, gpu: Gpu) -> None:
        gpu.here()
        self._gpu, self._work = gpu, list[Callable[[], None]]()
        self.handle = self

    def later(self, work: Callable[[], None]) -> None:
        self._gpu.here()
        self._work.append(work)

    def synchronize(self) -> None:
        self._gpu.here()
        work, self._work = self._work, []
        for each in work:
            each()
        if self._gpu.fault:
            raise RuntimeError(self._gpu.fault)


@dataclass
class Runtime:
    """What the runtime of TensorRT does wrong, if anything."""

    loads: bool = True
    contexts: int = 99
    accepts_shapes: bool = True
    enqueues: bool = True
    pixels: str = "UINT8"
    crop: int = 8


def add_runtime(trt: Any, gpu: Gpu, wrong: Runtime) -> None:
    """Gives a fake TensorRT module its runtime."""
    trt.DataType = IntEnum("DataType", {"UINT8": 1, "FLOAT": 2, "INT8": 3})

    class _Tracked:
        name = ""

        def __del__(self) -> None:
            gpu.history.append(f"{self.name} released")

    class Context(_Tracked):
        name = "context"

        def __init__(self, engine: Any) -> None:
            self._engine, self._addresses, self._count = engine, dict[str, int](), 0

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return address in gpu.memory

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == "pixels"
            self._count = shape[0]
            return wrong.accepts_shapes and 1 <= shape[0] <= 8

        def execute_async_v3(self, handle: Stream) -> bool:
            count, addresses = self._count, dict(self._addresses)

            def compute() -> None:
                size = count * wrong.crop * wrong.crop * 3
                pixels = gpu.memory[addresses["pixels"]][:size].reshape(count, -1, 3)
                logits = pixels.mean(axis=1, dtype=np.float64).astype(np.float32)
                gpu.memory[addresses["logits"]][: logits.nbytes] = np.frombuffer(logits.tobytes(), np.uint8)

            handle.later(compute)
            return wrong.enqueues

    class Engine(_Tracked):
        name = "engine"
        num_io_tensors = 2

        def __init__(self, runtime: Any) -> None:
            self._runtime, self._contexts = runtime, wrong.contexts  # the real one keeps its runtime alive, too

        def get_tensor_name(self, index: int) -> str:
            return ("pixels", "logits")[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[wrong.pixels] if name == "pixels" else trt.DataType.FLOAT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, wrong.crop, wrong.crop, 3) if name == "pixels" else (-1, 3)

        def get_tensor_profile_shape(self, name: str, _profile: int) -> list[tuple[int, ...]]:
            return [(count, wrong.crop, wrong.crop, 3) for count in (1, 1, 8)]

        def create_execution_context(self) -> Context | None:
            gpu.here()
            self._contexts -= 1
            return Context(self) if self._contexts >= 0 else None

    class TheRuntime(_Tracked):
        name = "runtime"

        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, _plan: bytes) -> Engine | None:
            gpu.here()
            if not wrong.loads:
                self._logger.log(SimpleNamespace(name="ERROR"), "the engine plan file is not compatible with this GPU")
            return Engine(self) if wrong.loads else None

    trt.Runtime = TheRuntime
