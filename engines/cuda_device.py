"""The CUDA device through pycuda: its primary context, which TensorRT uses too, memory, streams, events and graphs.

The primary context is retained and given back, pushed for each use and popped after it, so that any thread may use it;
`pycuda.autoinit` binds one context to one thread.

A graph is what a stream was given, recorded once and then launched as a whole. pycuda (up to 2026.1) has no calls for
it, so these are the CUDA driver's own, of CUDA 11.4 and newer. All of them need the device current.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import CDLL, POINTER, byref, c_char_p, c_int, c_ulonglong, c_void_p
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

_log = logging.getLogger(__name__)
_LIBRARY = "libcuda.so.1"

_THREAD_LOCAL = 1
"""``CU_STREAM_CAPTURE_MODE_THREAD_LOCAL``: other threads may call CUDA meanwhile, whatever they call."""

_CALLS: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}
"""Name → types of the arguments, from ``cuda.h``; each returns a ``CUresult``, which is 0 where it went well."""


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
        """Raises `EngineError` where the GPU is taken, or has no memory for a context."""
        self.driver = driver
        try:
            self._device = driver.Device(0)
            self._context = self._device.retain_primary_context()
        except Exception as problem:  # as above
            raise EngineError(f"the GPU cannot be used ({problem}); close other programs that use it") from problem

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


@contextmanager
def _memory_for(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as problem:  # as above
        raise EngineError(
            f"the GPU has no memory for {what} ({problem}); close other programs, or use fewer streams"
        ) from problem


class Buffer:
    """An array in page-locked memory, and as much memory on the device. Made and freed while the device is current."""

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Raises `EngineError` where there is not so much memory."""
        self._driver = driver
        with _memory_for(f"a batch of {shape[0]}"):
            self.host: NDArray[Any] = driver.pagelocked_empty(shape, np.dtype(dtype))
            self._memory = driver.mem_alloc(self.host.nbytes)

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
    with _memory_for("a stream"):
        return driver.Stream(_NON_BLOCKING)


class Timeline:
    """Events between the stages of one inference on a stream. Made and dropped while the device is current."""

    def __init__(self, driver: Any) -> None:
        """Raises `EngineError` where there is no memory for them."""
        with _memory_for("events"):
            self._events = [driver.Event() for _ in range(len(DeviceStage) + 1)]

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


class GraphDriver:
    """The graph calls of the CUDA driver here."""

    def __init__(self) -> None:
        """Raises `EngineError` where it has none."""
        try:
            library = CDLL(_LIBRARY)
            self._calls = {name: getattr(library, name) for name in _CALLS}
        except (OSError, AttributeError) as problem:
            raise EngineError(f"the CUDA driver has no graphs: {problem}") from problem
        for name, arguments in _CALLS.items():
            self._calls[name].argtypes, self._calls[name].restype = list(arguments), c_int

    def record(self, stream: int, work: Callable[[], None]) -> Graph:
        """Records what ``work`` gives to the stream with this handle; nothing of it is computed yet.

        Raises:
            EngineError: something in it cannot be recorded, or there is no memory; the stream is as it was before.
        """
        with ExitStack() as made:
            graph = self._captured(stream, work)
            made.callback(self.destroy, "cuGraphDestroy", graph)
            executable = c_void_p()
            self.call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
            made.callback(self.destroy, "cuGraphExecDestroy", executable)
            return Graph(self, executable, made.pop_all())

    def call(self, name: str, *arguments: Any) -> None:
        """Raises `EngineError` where the driver returns anything but success."""
        code = self._calls[name](*arguments)
        if code != 0:
            raise EngineError(f"{name} failed: {self._meaning(code)}")

    def destroy(self, name: str, handle: c_void_p) -> None:
        """A failure is only logged: whoever gives back goes on with the rest."""
        try:
            self.call(name, handle)
        except EngineError as problem:
            _log.warning("%s", problem)

    def _captured(self, stream: int, work: Callable[[], None]) -> c_void_p:
        graph = c_void_p()
        self.call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            work()
        except BaseException:
            code = self._calls["cuStreamEndCapture"](stream, byref(graph))  # or the stream would record for ever
            if code == 0 and graph:
                self.destroy("cuGraphDestroy", graph)
            raise
        self.call("cuStreamEndCapture", stream, byref(graph))
        return graph

    def _meaning(self, code: int) -> str:
        text = c_char_p()
        known = self._calls["cuGetErrorString"](code, byref(text)) == 0 and text.value
        return text.value.decode(errors="replace") if known and text.value else f"error {code}"


class Graph:
    """Recorded work. It belongs to the memory and to the state of TensorRT's context that it was recorded with."""

    def __init__(self, driver: GraphDriver, executable: c_void_p, made: ExitStack) -> None:
        self._driver, self._executable, self._made = driver, executable, made

    def launch(self, stream: int) -> None:
        """Gives all of it to the stream with this handle. Raises `EngineError`."""
        self._driver.call("cuGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """The executable graph, then the graph. Nothing may be running of it."""
        self._made.close()


class Recording:
    """Whether the work of an engine is recorded: until that fails once, for whichever of its streams."""

    def __init__(self, *, wanted: bool) -> None:
        self.wanted = wanted
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Whatever fails in the block ends it, and is logged once; the work goes on without graphs."""
        try:
            yield
        except Exception as problem:  # pycuda's errors derive from Exception alone
            reason = str(problem)  # who keeps what is logged must not keep the frames of the error, and memory in them
            with self._lock:
                if self.wanted:
                    _log.warning("no CUDA graph is used, which makes small batches slower: %s", reason)
                self.wanted = False
