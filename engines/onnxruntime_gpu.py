"""ONNX Runtime on an NVIDIA GPU, by its TensorRT or its CUDA provider: for those who have onnxruntime-gpu and no more.

Both take the graph that was lowered for TensorRT. Nothing runs on the processor behind the user's back: ONNX Runtime is
told to refuse that, and is asked which providers it loaded.

Sources: ONNX Runtime's pages "TensorRT Execution Provider" and "CUDA Execution Provider" (the options, and that Python
gives TensorRT's as True and False), ``onnxruntime_session_options_config_keys.h`` (``session.…``).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.engines.devices import DeviceProfile
from googlenet_edge.engines.onnxruntime_cpu import Simulated, interface_of, session_options
from googlenet_edge.engines.protocol import Engine, EngineOptions, EngineSpec, usable
from googlenet_edge.engines.registry import CUDA, IN_ITS_PLACE, GpuProvider, library_of, why_not_loaded
from googlenet_edge.engines.tensorrt_plans import check_kept
from googlenet_edge.engines.tensorrt_runtime import MOST_IMAGES, plans_folder
from googlenet_edge.errors import EngineError, why
from googlenet_edge.files import sha256_bytes
from googlenet_edge.processor import read_processor
from googlenet_edge.target import Precision

_NO_PROCESSOR = "session.disable_cpu_ep_fallback"
_TELL_PLACES = "session.record_ep_graph_assignment_info"  # from ONNX Runtime 1.24 on; older ones ignore it
_REFUSED_PROCESSOR = "fallback to CPU EP has been explicitly disabled"
_NO_MEMORY = ("out of memory", "failed to allocate memory", "smaller than requested bytes", "alloc_failed")

_log = logging.getLogger(__name__)

Options = dict[str, str]


def open_on_gpu(provider: GpuProvider, profile: DeviceProfile, model: bytes, options: EngineOptions) -> OnnxRuntimeGpu:
    """Opens a model that was lowered for TensorRT. The TensorRT provider compiles it first: minutes, once.

    Raises:
        EngineError: the provider is missing, cannot be loaded or has no such precision, or refuses the model.
        OutputError: the folder of the plans cannot be made.
    """
    if provider is CUDA and options.precision is Precision.INT8:
        raise EngineError(
            "the CUDA provider of ONNX Runtime has no INT8 convolutions; use --engine onnxruntime-tensorrt, or build"
            " with --precision fp16"
        )
    _refuse_missing(provider)
    _preload(provider, options.precision)
    name, crop = _input_of(model)
    ordered = [
        (each, provider_options(each, profile, options, shape=(name, crop), model=model)) for each in provider.order
    ]
    return OnnxRuntimeGpu(_Opening(provider, model, ordered), options=options, profile=profile)


def provider_options(
    name: str, profile: DeviceProfile, options: EngineOptions, *, shape: tuple[str, int], model: bytes
) -> Options:
    """The options of a provider. ``shape`` is the input's name and its crop. Raises `OutputError`."""
    if name == CUDA.name:
        return {
            "device_id": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "use_tf32": "0",
        }
    pixels, crop = shape
    folder = str(_cache_folder(model))
    profiles = {"min": 1, "opt": 1, "max": MOST_IMAGES}
    return {
        "device_id": "0",
        "trt_max_workspace_size": str(profile.workspace_bytes),
        "trt_fp16_enable": str(options.precision is not Precision.FP32),
        "trt_int8_enable": str(options.precision is Precision.INT8),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
        **{f"trt_profile_{end}_shapes": f"{pixels}:{n}x{crop}x{crop}x3" for end, n in profiles.items()},
    }


class OnnxRuntimeGpu(Engine):
    """An `Engine` of one session. The TensorRT provider lets one inference at a time through."""

    def __init__(self, opening: _Opening, *, options: EngineOptions, profile: DeviceProfile) -> None:
        """Raises `EngineError`."""
        settings = _settings(opening.provider, options)
        session = opening.session(settings)
        self._session: Any = session
        self._input, self._output, crop, classes = interface_of(session)
        places = _places(session)
        _log.info("%s computes %s", opening.provider.name, places or "the model")
        self.spec = EngineSpec(
            backend=opening.provider.engine.value,
            version=onnxruntime.__version__,
            device=profile.device,
            threads=options.threads,
            crop=crop,
            classes=classes,
            streams=options.streams,
            nodes=places,
        )

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`. At most `MOST_IMAGES` at a time, which is what a plan takes."""
        session = usable(self._session, pixels, self.spec)
        try:
            parts = [
                session.run([self._output], {self._input: pixels[at : at + MOST_IMAGES]})[0]
                for at in range(0, len(pixels), MOST_IMAGES)
            ]
        except Exception as problem:  # the runtime's own errors have no common base
            raise _failure(problem, f"a batch of {len(pixels)}") from problem
        return np.concatenate(parts, dtype=np.float32)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None


class _Opening:
    """A model, and the providers with their options that are to run it."""

    def __init__(self, provider: GpuProvider, model: bytes, ordered: list[tuple[str, Options]]) -> None:
        self.provider, self._model, self._ordered = provider, model, ordered

    def session(self, settings: Any) -> Any:
        """A session in which the provider is loaded and nothing is left to the processor. Raises `EngineError`."""
        settings.add_session_config_entry(_NO_PROCESSOR, "1")
        try:
            session = self._new(settings)
        except Exception as problem:  # as above
            if _REFUSED_PROCESSOR in str(problem):
                raise self._left_to_the_processor(settings) from problem
            raise _failure(problem, "the model") from problem
        if self.provider.name not in session.get_providers():
            raise self._not_loaded()
        return session

    def _new(self, settings: Any) -> Any:
        """What fails, here or in a run, is not tried again on the processor."""
        return onnxruntime.InferenceSession(self._model, settings, providers=self._ordered, enable_fallback=0)

    def _left_to_the_processor(self, settings: Any) -> EngineError:
        """ONNX Runtime says the same of a provider that it could not load and of one that lacks an operator."""
        settings.add_session_config_entry(_NO_PROCESSOR, "0")
        try:
            session = self._new(settings)
        except Exception as problem:  # as above
            return _failure(problem, "the model")
        if self.provider.name not in session.get_providers():
            return self._not_loaded()
        places = _places(session)
        found = f"of its operators it would run {_said(places)}" if places else "not all of its operators run there"
        return EngineError(
            f"{self.provider.name} leaves a part of the model to the processor: {found}; update onnxruntime-gpu, or use"
            " --engine tensorrt"
        )

    def _not_loaded(self) -> EngineError:
        provider = self.provider
        others = "tensorrt" if provider is CUDA else f"tensorrt or {CUDA.engine.value}"
        return EngineError(
            f"ONNX Runtime {onnxruntime.__version__} has {provider.name} and cannot load it:"
            f" {why_not_loaded(library_of(provider))}; install {provider.needs} in the versions that this release is"
            f" made for (gnet-edge doctor says what is here), or use --engine {others}"
        )


def _refuse_missing(provider: GpuProvider) -> None:
    available = onnxruntime.get_available_providers()
    if provider.name not in available:
        raise EngineError(
            f"the ONNX Runtime here ({onnxruntime.__version__}) has no {provider.name}, only {', '.join(available)};"
            f" install the one for GPUs in its place: {IN_ITS_PLACE} (on a Jetson, the wheel that NVIDIA makes for its"
            " JetPack); gnet-edge doctor says what is here"
        )


def _preload(provider: GpuProvider, precision: Precision) -> None:
    """Loads the CUDA and cuDNN that pip installed, which ONNX Runtime from 1.21 on does when told to, and prints.

    And TensorRT, which it does not. Its provider has no option that keeps float32 from being TF32.
    """
    if provider is not CUDA:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt_libs")
        if precision is Precision.FP32:
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:
        return
    with contextlib.redirect_stdout(io.StringIO()) as said:
        preload()
    if said.getvalue():
        _log.info("%s", said.getvalue().strip())


def _input_of(model: bytes) -> tuple[str, int]:
    """The input's name and crop: shapes are told to TensorRT before the session is there. Raises `EngineError`."""
    opened = Simulated(model, EngineOptions())
    return opened.input, opened.spec.crop


def _settings(provider: GpuProvider, options: EngineOptions) -> Any:
    """TensorRT gets the graph as it was lowered.

    Even the lowest level of ONNX Runtime's optimizer would put int32 biases into it, which TensorRT does not read, and
    pairs that round twice.
    """
    levels = onnxruntime.GraphOptimizationLevel
    settings = session_options(options, processor=read_processor())
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if provider is CUDA else levels.ORT_DISABLE_ALL
    settings.add_session_config_entry(_TELL_PLACES, "1")
    return settings


def _cache_folder(model: bytes) -> Path:
    """Beside the plans that we build ourselves. The provider names its files after model, TensorRT and kind of GPU."""
    folder = plans_folder() / f"{sha256_bytes(model)[:16]}-onnxruntime-{onnxruntime.__version__}"
    check_kept(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _places(session: Any) -> dict[str, int]:
    """How many operators each provider computes; empty where this ONNX Runtime does not tell."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    places: Counter[str] = Counter()
    for part in ask() if ask else ():
        places[part.ep_name] += len(part.get_nodes())
    return dict(sorted(places.items()))


def _said(places: dict[str, int]) -> str:
    return ", ".join(f"{count} by {name}" for name, count in places.items())


def _failure(problem: Exception, what: str) -> EngineError:
    if any(sign in str(problem).lower() for sign in _NO_MEMORY):
        return EngineError(
            f"the GPU has no memory for {what} ({why(problem)}); close other programs, or use fewer images"
        )
    return EngineError(
        f"ONNX Runtime failed on {what} ({why(problem)}); open the bundle again, or use --engine tensorrt"
    )
