"""CUDA graphs: what a stream is given is recorded once, and then launched as a whole.

pycuda (up to 2026.1) has no calls for it, so these are the CUDA driver's own, of CUDA 11.4 and newer. All of them need
the device current.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ctypes import CDLL, POINTER, byref, c_char_p, c_int, c_ulonglong, c_void_p
from typing import Any

from googlenet_edge.errors import EngineError

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
