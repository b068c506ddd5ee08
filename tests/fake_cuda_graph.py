"""libcuda's graph calls without a GPU: C functions as ctypes finds them in a library, which knows no types.

Handles are longer than 32 bits, as real ones are. A call that is given a handle that it does not know returns an error.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, POINTER, c_char_p, c_int, c_ulonglong, c_void_p, cast
from typing import Any

from fake_cuda import Gpu

_PROGRAM: Any = CDLL(None)
_POINTER = POINTER(c_void_p)
_INVALID_VALUE, _INVALID_HANDLE, _INVALIDATED, _OTHER = 1, 400, 901, 999
_THREAD_LOCAL = 1
_MEANINGS = {2: b"out of memory", _INVALIDATED: b"operation failed due to a previous error during capture"}


class Libcuda:
    """What ``ctypes.CDLL("libcuda.so.1")`` gives."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._kept: list[Any] = []
        self.cuStreamBeginCapture_v2 = self._call("begin capture", self._begin, c_void_p, c_int)
        self.cuStreamEndCapture = self._call("end capture", self._end, c_void_p, _POINTER)
        self.cuGraphInstantiateWithFlags = self._call("instantiate", self._ready, _POINTER, c_void_p, c_ulonglong)
        self.cuGraphLaunch = self._call("launch", self._launch, c_void_p, c_void_p)
        self.cuGraphExecDestroy = self._call("destroy executable", self._drop("executable", gpu.executables), c_void_p)
        self.cuGraphDestroy = self._call("destroy graph", self._drop("graph", gpu.graphs), c_void_p)
        self.cuGetErrorString = self._function(self._meaning, c_int, POINTER(c_char_p))

    def _call(self, name: str, does: Callable[..., int], *types: Any) -> Any:
        def call(*arguments: Any) -> int:
            try:
                self._gpu.here()
                self._gpu.calls.append(name)
                failure = self._gpu.graph_failures.get(name, 0)
                if failure and name == "end capture":
                    self._gpu.streams[arguments[0]].end_capture()  # it ends all the same
                elif failure and name.startswith("destroy"):
                    does(*arguments)
                return failure or does(*arguments)
            except Exception as problem:  # ctypes would drop it
                self._gpu.problems.append(problem)
                return _OTHER

        return self._function(call, *types)

    def _function(self, call: Callable[..., int], *types: Any) -> Any:
        """As ``CDLL`` gives it: the address of a function, without its types."""
        function = CFUNCTYPE(c_int, *types)(call)
        self._kept.append(function)
        return _PROGRAM._FuncPtr(cast(function, c_void_p).value)

    def _begin(self, handle: int, mode: int) -> int:
        if mode != _THREAD_LOCAL:
            return _INVALID_VALUE
        self._gpu.streams[handle].begin_capture()
        return 0

    def _end(self, handle: int, out: Any) -> int:
        work = self._gpu.streams[handle].end_capture()
        if work is None:
            out[0] = None
            return _INVALIDATED
        out[0] = self._gpu.new_handle()
        self._gpu.graphs[out[0]] = work
        return 0

    def _ready(self, out: Any, graph: int, flags: int) -> int:
        if graph not in self._gpu.graphs or flags != 0:
            return _INVALID_VALUE
        out[0] = self._gpu.new_handle()
        self._gpu.executables[out[0]] = list(self._gpu.graphs[graph])
        return 0

    def _launch(self, executable: int, handle: int) -> int:
        if executable not in self._gpu.executables or handle not in self._gpu.streams:
            return _INVALID_HANDLE
        for work in self._gpu.executables[executable]:
            self._gpu.streams[handle].later(work)
        self._gpu.launches.append((executable, handle))
        return 0

    def _drop(self, what: str, where: dict[int, Any]) -> Callable[[int], int]:
        def drop(handle: int) -> int:
            if handle not in where:
                return _INVALID_HANDLE
            del where[handle]
            self._gpu.history.append(f"{what} destroyed")
            return 0

        return drop

    @staticmethod
    def _meaning(code: int, out: Any) -> int:
        if code not in _MEANINGS:
            return _INVALID_VALUE
        out[0] = _MEANINGS[code]
        return 0
