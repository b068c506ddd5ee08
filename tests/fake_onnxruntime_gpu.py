"""ONNX Runtime with GPU providers on a machine without a GPU: it takes and refuses what the real one does.

A session computes on the processor, by the real ONNX Runtime, at the optimization level that it was given; which
provider would have computed is only recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
REFUSED = (
    "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP, but"
    " fallback to CPU EP has been explicitly disabled by the user."
)
NO_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 999\nat X"
)

# What ONNX Runtime's pages name; TensorRT's booleans are words, and nothing else is taken.
BOOLEANS = {"trt_fp16_enable", "trt_int8_enable", "trt_engine_cache_enable", "trt_timing_cache_enable"}
KNOWN = {
    CUDA: {"device_id", "arena_extend_strategy", "cudnn_conv_algo_search", "use_tf32"},
    TENSORRT: BOOLEANS
    | {"device_id", "trt_max_workspace_size", "trt_engine_cache_path", "trt_timing_cache_path"}
    | {f"trt_profile_{end}_shapes" for end in ("min", "opt", "max")},
}
Providers = Sequence[Any]  # names, or pairs of a name and its options


@dataclass
class Machine:
    """What is there, and what was asked of it.

    ``loads`` are the providers whose libraries are found; ``left`` is an operator that none of them has.
    """

    has: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    loads: tuple[str, ...] = (TENSORRT, CUDA)
    left: str | None = None
    tells_places: bool = True
    opening_fails: Exception | None = None
    running_fails: Exception | None = None
    preloaded: bool = False
    opened: list[Session] = field(default_factory=list)

    def module(self) -> Any:
        """To stand for ``onnxruntime``."""
        return SimpleNamespace(
            __version__="1.24.0",
            SessionOptions=onnxruntime.SessionOptions,
            GraphOptimizationLevel=onnxruntime.GraphOptimizationLevel,
            get_available_providers=lambda: list(self.has),
            preload_dlls=self._preload,
            InferenceSession=self._session,
        )

    def _preload(self) -> None:
        print("libcudart.so.12 is not where pip puts it")
        self.preloaded = True

    def _session(self, model: bytes, settings: Any, *, providers: Providers, enable_fallback: int = 1) -> Any:
        if list(providers) == [CPU]:
            return onnxruntime.InferenceSession(model, settings, providers=[CPU])
        session = Session(self, model, settings, providers, enable_fallback)
        assert self.preloaded, "what pip installed of CUDA is found only if it is loaded before"
        self.opened.append(session)
        return session


class Session:
    """One that was asked for with GPU providers."""

    def __init__(self, machine: Machine, model: bytes, settings: Any, providers: Providers, fallback: int) -> None:
        self.machine, self.level = machine, settings.graph_optimization_level
        self.options = {name: dict(given) for name, given in providers}
        self.falls_back, self.batches = bool(fallback), list[int]()
        for name, given in self.options.items():
            assert name in machine.has, f"ONNX Runtime warns of {name} and leaves it out"
            assert set(given) <= KNOWN[name], f"{name} refuses unknown options"
            assert all(value in ("True", "False") for key, value in given.items() if key in BOOLEANS)
        if machine.opening_fails:
            raise machine.opening_fails
        plain = onnxruntime.SessionOptions()
        plain.graph_optimization_level = self.level
        plain.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._real = onnxruntime.InferenceSession(model, plain, providers=[CPU])
        self._loaded = [name for name in self.options if name in machine.loads]
        kinds = [node.op_type for part in self._real.get_provider_graph_assignment_info() for node in part.get_nodes()]
        self._here = [kind for kind in kinds if not self._loaded or kind == machine.left]
        self._there = len(kinds) - len(self._here)
        if self._here and settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1":
            raise RuntimeError(REFUSED)
        self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs
        if machine.tells_places:
            self.get_provider_graph_assignment_info = self._places

    def get_providers(self) -> list[str]:
        return [*self._loaded, CPU]

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        (pixels,) = feeds.values()
        self.batches.append(len(pixels))
        if self.machine.running_fails and not self.falls_back:
            raise self.machine.running_fails
        return self._real.run(names, feeds)

    def _places(self) -> list[Any]:
        found = [(self._loaded[0], self._there)] if self._loaded else []
        found += [(CPU, len(self._here))] if self._here else []
        return [SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count) for name, count in found]
