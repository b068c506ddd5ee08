"""A GPU that is not there: pycuda's driver and TensorRT's runtime, which work only when they are waited for.

What a stream is given runs when the stream is synchronized, as late as a real one might. So whoever reads too early
reads zeros. Every call must find the context current in its thread, and everything that is made must be given back.
The "network" gives the mean of each colour channel.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

Work = list[Callable[[], None]]
COPY_IN_MS, COMPUTE_MS, COPY_OUT_MS = 0.25, 2.0, 0.125  # the second for every image


@dataclass
class Gpu:
    """The driver, and what happened to it.

    ``calls`` is what it was told to do, in order; ``history`` is what was given back. ``graph_failures`` are the codes
    that calls of libcuda return, by what they do. Threads wait for each other at ``meeting`` when they wait
    for a stream, and when they cannot record.
    """

    memory: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    free_bytes: int = 1 << 30
    most_events: int = 99
    most_streams: int = 99
    devices: int = 1
    taken: str = ""
    fault: str = ""
    fault_from_wait: int = 0
    waits: int = 0
    graph_failures: dict[str, int] = field(default_factory=dict)
    retained: int = 0
    made: int = 0
    now_ms: float = 0.0
    page_locked: int = 0
    events: int = 0
    streams: dict[int, Stream] = field(default_factory=dict)
    graphs: dict[int, Work] = field(default_factory=dict)
    executables: dict[int, Work] = field(default_factory=dict)
    launches: list[tuple[int, int]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    problems: list[Exception] = field(default_factory=list)
    meeting: threading.Barrier | None = None
    history: list[str] = field(default_factory=list)
    current: threading.local = field(default_factory=threading.local)

    def driver(self) -> Any:
        """``pycuda.driver``."""
        device = SimpleNamespace(
            name=lambda: "Orin",
            compute_capability=lambda: (8, 7),
            get_attribute={"multiprocessors": 8}.__getitem__,
            retain_primary_context=self._retain,
        )
        device_class = SimpleNamespace(count=lambda: self.devices)
        return SimpleNamespace(
            init=lambda: None,
            device_attribute=SimpleNamespace(MULTIPROCESSOR_COUNT="multiprocessors"),
            Device=_Callable(lambda index: device, count=device_class.count),
            Context=SimpleNamespace(pop=self._pop),
            Stream=self._stream,
            Event=lambda: Event(self),
            pagelocked_empty=self._pagelocked,
            mem_alloc=self._allocate,
            memcpy_htod_async=self._copy_in,
            memcpy_dtoh_async=self._copy_out,
        )

    def here(self) -> None:
        """Asserts that the context is current in this thread."""
        assert getattr(self.current, "depth", 0) == 1, "the context is not current in this thread"

    def _retain(self) -> Any:
        if self.taken:
            raise MemoryError(self.taken)
        self.retained += 1
        return SimpleNamespace(push=self._push, detach=self._detach)

    def _push(self) -> None:
        self.current.depth = getattr(self.current, "depth", 0) + 1

    def _pop(self) -> None:
        self.here()
        self.current.depth -= 1

    def _detach(self) -> None:
        assert not self.memory, "memory was left on the device"
        left = (self.page_locked, self.events, self.graphs, self.executables)
        assert not any(left), f"not given back: {left}"
        assert not self.problems
        self.retained -= 1
        self.history.append("device given back")

    def _pagelocked(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self.here()
        allocation = np.zeros(shape, dtype).view(_Locked)
        allocation.gpu = self
        self.page_locked += 1
        return allocation[:]  # whose base can be freed

    def _allocate(self, size: int) -> Any:
        self.here()
        if size > self.free_bytes:
            raise MemoryError("cuMemAlloc failed: out of memory")
        self.free_bytes -= size
        address = self.new_handle()
        self.memory[address] = np.zeros(size, np.uint8)
        return _Allocation(self, address)

    def new_handle(self) -> int:
        """Longer than 32 bits."""
        self.made += 1
        return (0x7F << 40) + (self.made << 12)

    def _stream(self, flags: int = 0) -> Stream:
        self.here()
        assert flags == 1, "a blocking stream waits for the default stream, and fails while it records"
        if len(self.streams) >= self.most_streams:
            raise MemoryError("cuStreamCreate failed: out of memory")
        return Stream(self)

    def _copy_in(self, to: Any, source: np.ndarray[Any, Any], stream: Stream) -> None:
        self.calls.append("copy in")
        stream.later(lambda: self._write(to, source))

    def _copy_out(self, to: np.ndarray[Any, Any], source: Any, stream: Stream) -> None:
        self.calls.append("copy out")
        stream.later(lambda: self._read(to, source))

    def _write(self, to: Any, source: np.ndarray[Any, Any]) -> None:
        data = np.frombuffer(np.ascontiguousarray(source).tobytes(), np.uint8)
        self.memory[int(to)][: data.size] = data
        self.now_ms += COPY_IN_MS

    def _read(self, to: np.ndarray[Any, Any], source: Any) -> None:
        to[...] = self.memory[int(source)][: to.nbytes].view(to.dtype).reshape(to.shape)
        self.now_ms += COPY_OUT_MS


class _Callable:
    def __init__(self, call: Callable[[int], Any], **members: Any) -> None:
        self._call = call
        self.__dict__.update(members)

    def __call__(self, index: int) -> Any:
        return self._call(index)


class _Locked(np.ndarray[Any, Any]):
    """Page-locked memory: pycuda's arrays are freed by their base, once it is asked to or nobody has it any more."""

    gpu: Gpu | None = None

    def free(self) -> None:
        if self.gpu:
            self.gpu.page_locked -= 1
            self.gpu = None

    __del__ = free


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
    """Work that waits until somebody waits for it; or, while it is recorded, for its graph to be launched."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._work = gpu, Work()
        self._captured: Work | None = None
        self._valid = True
        self.handle = gpu.new_handle()
        gpu.streams[self.handle] = weakref.proxy(self)

    def __del__(self) -> None:
        del self._gpu.streams[self.handle]

    @property
    def capturing(self) -> bool:
        return self._captured is not None

    def later(self, work: Callable[[], None]) -> None:
        self._gpu.here()
        (self._work if self._captured is None else self._captured).append(work)

    def begin_capture(self) -> None:
        assert not self.capturing
        self._captured, self._valid = Work(), True

    def invalidate(self) -> None:
        self._valid = False
        if self._gpu.meeting:
            self._gpu.meeting.wait()

    def end_capture(self) -> Work | None:
        assert self._captured is not None
        work, self._captured = self._captured, None
        return work if self._valid else None

    def synchronize(self) -> None:
        self._gpu.here()
        self._gpu.calls.append("synchronize")
        assert not self.capturing, "waiting for a stream that records"
        if self._gpu.meeting:
            self._gpu.meeting.wait()
        work, self._work = self._work, Work()
        for each in work:
            each()
        self._gpu.waits += 1
        if self._gpu.fault and self._gpu.waits >= self._gpu.fault_from_wait:
            raise RuntimeError(self._gpu.fault)


class Event:
    """A moment, which is known when the stream came to it."""

    def __init__(self, gpu: Gpu) -> None:
        gpu.here()
        self._gpu = gpu
        self._alive = gpu.events < gpu.most_events
        if not self._alive:
            raise MemoryError("cuEventCreate failed: out of memory")
        gpu.events += 1
        self._at_ms: float | None = None

    def __del__(self) -> None:
        self._gpu.events -= self._alive

    def record(self, stream: Stream) -> None:
        self._gpu.calls.append("event")
        self._at_ms = None
        stream.later(self._happen)

    def time_since(self, start: Event) -> float:
        if self._at_ms is None or start._at_ms is None:
            raise RuntimeError("cuEventElapsedTime failed: device not ready")
        return self._at_ms - start._at_ms

    def _happen(self) -> None:
        self._at_ms = self._gpu.now_ms


@dataclass
class Runtime:
    """What the runtime of TensorRT does wrong, if anything. ``records``: right, refused, nothing, or wrong.

    ``most`` images a plan takes; a plan for a DLA loads where the runtime was told ``dla_core``. Kernels that TensorRT
    for RTX compiled fit where the ``driver`` is the same.
    """

    loads: bool = True
    contexts: int = 99
    accepts_shapes: bool = True
    enqueues: bool = True
    records: str = "right"
    pixels: str = "UINT8"
    crop: int = 8
    most: int = 8
    dla_core: int | None = None
    driver: str = "580"


def add_runtime(trt: Any, gpu: Gpu, wrong: Runtime) -> None:
    """Gives a fake TensorRT module its runtime."""
    trt.DataType = IntEnum("DataType", {"UINT8": 1, "FLOAT": 2, "INT8": 3})
    kind = _RtxEngine if trt.__name__ == "tensorrt_rtx" else _Engine
    trt.Runtime = partial(_Loader, gpu, wrong, trt.DataType, kind)


class _Tracked:
    """What TensorRT makes: the GPU notes when it is released."""

    name = ""

    def __init__(self, gpu: Gpu, wrong: Runtime) -> None:
        self._gpu, self._wrong = gpu, wrong

    def __del__(self) -> None:
        self._gpu.history.append(f"{self.name} released")


class _Context(_Tracked):
    name = "context"

    def __init__(self, gpu: Gpu, wrong: Runtime, engine: _Engine) -> None:
        super().__init__(gpu, wrong)
        self._engine, self._addresses, self._count = engine, dict[str, int](), 0
        self.kernels: _Kernels | None = None
        self._state, self._enqueued_in = object(), object()  # what a graph belongs to; that of the last enqueue

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name], self._state = address, object()
        return address in self._gpu.memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "pixels"
        self._count, self._state = shape[0], object()
        return self._wrong.accepts_shapes and 1 <= shape[0] <= 8

    def execute_async_v3(self, handle: int) -> bool:
        self._gpu.calls.append("enqueue")
        stream = self._gpu.streams[handle]
        if not stream.capturing:
            self._enqueued_in = self._state
            stream.later(partial(self._compute, self._count))
            if not self._wrong.enqueues:
                self._engine.complain("myelin could not run the kernel")
            return self._wrong.enqueues
        assert self._enqueued_in is self._state, "recorded before it was enqueued with this shape"
        if self._wrong.records == "refused":
            stream.invalidate()
            return False
        if self._wrong.records != "nothing":
            stream.later(partial(self._replay, self._count, self._state))
        return True

    def need(self, kernel: str) -> None:
        """Compiles it, unless it is there."""
        if self.kernels and kernel not in self.kernels.there:
            self._gpu.history.append(f"compiled {kernel}")
            self.kernels.there.add(kernel)

    def _compute(self, count: int) -> None:
        self.need(f"a batch of {count}")
        size = count * self._wrong.crop * self._wrong.crop * 3
        pixels = self._gpu.memory[self._addresses["pixels"]][:size].reshape(count, -1, 3)
        logits = pixels.mean(axis=1, dtype=np.float64).astype(np.float32)
        self._write(logits)
        self._gpu.now_ms += COMPUTE_MS * count

    def _replay(self, count: int, state: object) -> None:
        assert state is self._state, "a graph was launched after its context had changed"
        self._compute(count)
        if self._wrong.records == "wrong":
            self._write(np.ones((count, 3), np.float32))

    def _write(self, logits: np.ndarray[Any, Any]) -> None:
        self._gpu.memory[self._addresses["logits"]][: logits.nbytes] = np.frombuffer(logits.tobytes(), np.uint8)


class _Engine(_Tracked):
    name = "engine"
    num_io_tensors = 2

    def __init__(self, gpu: Gpu, wrong: Runtime, types: Any, runtime: _Loader) -> None:
        super().__init__(gpu, wrong)
        self._types, self._runtime, self._contexts = (
            types,
            runtime,
            self._wrong.contexts,
        )  # the real one keeps its runtime alive, too

    def complain(self, message: str) -> None:
        self._runtime.complain(message)

    def get_tensor_name(self, index: int) -> str:
        return ("pixels", "logits")[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._types[self._wrong.pixels] if name == "pixels" else self._types.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, self._wrong.crop, self._wrong.crop, 3) if name == "pixels" else (-1, 3)

    def get_tensor_profile_shape(self, name: str, _profile: int) -> list[tuple[int, ...]]:
        return [(count, self._wrong.crop, self._wrong.crop, 3) for count in (1, 1, self._wrong.most)]

    def create_execution_context(self) -> _Context | None:
        self._gpu.here()
        self._contexts -= 1
        return _Context(self._gpu, self._wrong, self) if self._contexts >= 0 else None


class _RtxEngine(_Engine):
    """That of TensorRT for RTX, which compiles kernels for the GPU at hand."""

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig(self._gpu, self._wrong, self)

    def create_execution_context(self, runtime_config: _RuntimeConfig | None = None) -> _Context | None:
        made = super().create_execution_context()
        if made is not None:
            made.kernels = runtime_config and runtime_config.cache
            made.need("the plan")
        return made


class _RuntimeConfig(_Tracked):
    name = "configuration"

    def __init__(self, gpu: Gpu, wrong: Runtime, engine: _RtxEngine) -> None:
        super().__init__(gpu, wrong)
        self._engine, self.cache = engine, None

    def create_runtime_cache(self) -> _Kernels:
        return _Kernels(self._gpu, self._wrong, self._engine)

    def set_runtime_cache(self, cache: _Kernels) -> bool:
        self.cache = cache
        return True


class _Kernels(_Tracked):
    """An ``IRuntimeCache``: names of kernels, behind the driver that they are for."""

    name = "kernels"

    def __init__(self, gpu: Gpu, wrong: Runtime, engine: _RtxEngine) -> None:
        super().__init__(gpu, wrong)
        self._engine, self.there = engine, set[str]()

    def deserialize(self, blob: bytes) -> bool:
        self._gpu.here()
        driver, *there = blob.decode().split("\n")
        fits = driver == self._wrong.driver
        if fits:
            self.there = set(there)
        else:
            self._engine.complain(f"the driver was {driver}")
        return fits

    def serialize(self) -> memoryview | None:
        self._gpu.here()
        return memoryview("\n".join([self._wrong.driver, *sorted(self.there)]).encode())


class _Loader(_Tracked):
    name = "runtime"
    DLA_core: int | None = None

    def __init__(self, gpu: Gpu, wrong: Runtime, types: Any, kind: type[_Engine], logger: Any) -> None:
        super().__init__(gpu, wrong)
        self._types, self._kind, self._logger = types, kind, logger

    def complain(self, message: str) -> None:
        self._logger.log(SimpleNamespace(name="ERROR"), message)

    def deserialize_cuda_engine(self, _plan: bytes) -> _Engine | None:
        self._gpu.here()
        if self.DLA_core != self._wrong.dla_core:
            raise AssertionError(f"the DLA is {self.DLA_core}")
        if not self._wrong.loads:
            self.complain("the engine plan file is not compatible with this GPU")
        return self._kind(self._gpu, self._wrong, self._types, self) if self._wrong.loads else None
