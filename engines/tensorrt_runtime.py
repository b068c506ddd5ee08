"""TensorRT on a GPU: a plan, built here when it is missing, and run through pycuda by the tensor-address interface."""

from __future__ import annotations

import logging
import os
import traceback
from contextlib import ExitStack
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.engines.cuda_device import Buffer, CudaDevice, load_driver
from googlenet_edge.engines.devices import DeviceProfile, Typing
from googlenet_edge.engines.protocol import EngineOptions, EngineSpec, check_batch
from googlenet_edge.engines.tensorrt_builder import Batches, PlanRequest
from googlenet_edge.engines.tensorrt_library import Flavour, Library, errors_in, listening, load_library, logger_of
from googlenet_edge.engines.tensorrt_plans import plan_at
from googlenet_edge.errors import EngineError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.target import Device, EngineName

MOST_IMAGES = 8
"""The largest batch that a plan takes; it is fastest at one image. More images are run in turns."""

_PIXELS, _LOGITS = "pixels", "logits"

_log = logging.getLogger(__name__)


def open_tensorrt(profile: DeviceProfile, model: bytes, options: EngineOptions) -> TensorRtEngine:
    """Opens a lowered model on the GPU here; compiles it first where that was not done yet.

    Raises:
        EngineError: TensorRT, pycuda or a GPU is missing, or TensorRT refuses the model.
        OutputError: the plan cannot be kept.
    """
    library = load_library(Flavour.RTX if profile.device is Device.RTX else Flavour.TENSORRT)
    device = CudaDevice(load_driver())
    try:
        with device.current():
            batches = Batches(1, 1, MOST_IMAGES)
            request = PlanRequest(model, options.precision, profile.workspace_bytes, batches)
            folder = plans_folder() / sha256_bytes(model)[:16]
            _log.info("%s compiles the model where that is not done yet: minutes, once; kept in %s", library, folder)
            plan = plan_at(folder, library, request, gpu=device.name).data
            return TensorRtEngine(plan, library=library, device=device, options=options, target=profile.device)
    except BaseException as problem:
        traceback.clear_frames(problem.__traceback__)  # which hold what must be released before the device
        device.close()
        raise


def plans_folder() -> Path:
    """Where plans are kept on this machine: they are of no use on another."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "gnet-edge" / "plans"


class TensorRtEngine:
    """An `Engine` of one plan. Each stream has an execution context, a CUDA stream and buffers of its own."""

    def __init__(
        self, plan: bytes, *, library: Library, device: CudaDevice, options: EngineOptions, target: Device
    ) -> None:
        """Takes the device over, which is current, and gives it back when closed. Raises `EngineError`."""
        self._device, self._library = device, library
        with listening(library) as lines:
            self._runtime = library.module.Runtime(logger_of(library.module))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"{library} does not load the plan: {errors_in(lines)}; remove {plans_folder()}")
        crop, classes = _interface(self._engine, library.module)
        self._most = int(self._engine.get_tensor_profile_shape(_PIXELS, 0)[2][0])
        shared = library.typing is Typing.STRONG  # before, contexts cannot share an optimization profile
        streams = options.streams if shared else 1
        version = ".".join(map(str, library.version))
        self._spec = EngineSpec(EngineName.TENSORRT.value, version, target, options.threads, crop, classes, streams)
        self._idle: LifoQueue[_Worker] = LifoQueue()
        with ExitStack() as made:
            made.callback(self._release)
            for _ in range(streams):
                worker = _Worker(self._engine, device.driver, most=self._most, crop=crop, classes=classes)
                made.callback(worker.close)
                self._idle.put(worker)
            made.pop_all()  # all are there: they live until `close`
        self._closed = False

    @property
    def spec(self) -> EngineSpec:
        """What this engine is."""
        return self._spec

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        if self._closed:
            raise EngineError("the engine is closed; open the bundle again")
        check_batch(pixels, self._spec)
        worker = self._idle.get()
        try:
            with self._device.current():
                parts = [worker.run(pixels[at : at + self._most]) for at in range(0, len(pixels), self._most)]
        except EngineError:
            raise
        except Exception as problem:  # pycuda's errors derive from Exception alone
            raise EngineError(
                f"CUDA failed on a batch of {len(pixels)} ({problem}); open the bundle again"
            ) from problem
        finally:
            self._idle.put(worker)
        return np.concatenate(parts)

    def close(self) -> None:
        """See `Engine.close`. Waits for runs that are under way; gives back contexts, plan, runtime and device."""
        if self._closed:
            return
        self._closed = True
        with self._device.current():
            for _ in range(self._spec.streams):
                self._idle.get().close()
            self._release()
        self._device.close()

    def _release(self) -> None:
        self._engine = None
        self._runtime = None

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """What one inference at a time needs."""

    def __init__(self, engine: Any, driver: Any, *, most: int, crop: int, classes: int) -> None:
        self._stream = driver.Stream()
        with ExitStack() as made:
            self._pixels = Buffer(driver, (most, crop, crop, 3), np.uint8)
            made.callback(self._pixels.free)
            self._logits = Buffer(driver, (most, classes), np.float32)
            made.callback(self._logits.free)
            self._context = engine.create_execution_context()
            made.callback(self._drop_context)
            if self._context is None:
                raise EngineError("the GPU has no memory for another execution context; use fewer streams")
            for name, buffer in ((_PIXELS, self._pixels), (_LOGITS, self._logits)):
                _expect(self._context.set_tensor_address(name, buffer.address), f"does not take the address of {name}")
            self._made = made.pop_all()

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """At most as many images as the buffers hold."""
        count = len(pixels)
        self._pixels.host[:count] = pixels
        try:
            self._pixels.to_device(self._stream, count)
            _expect(self._context.set_input_shape(_PIXELS, pixels.shape), f"does not take a batch of {count}")
            _expect(self._context.execute_async_v3(self._stream.handle), f"failed on a batch of {count}")
            self._logits.to_host(self._stream, count)
        finally:
            self._stream.synchronize()  # after a failure, too: the buffers must be idle for the next run
        return np.array(self._logits.host[:count])

    def close(self) -> None:
        """The context before the memory that it reads."""
        self._made.close()
        self._stream = None

    def _drop_context(self) -> None:
        self._context = None


def _interface(engine: Any, trt: Any) -> tuple[int, int]:
    """(crop, classes). Raises `EngineError` where the plan is of another kind."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names}
    match found:
        case {"pixels": (pixels, (_, int(height), int(width), 3)), "logits": (logits, (_, int(classes)))} if (
            height == width and (pixels, logits) == (trt.DataType.UINT8, trt.DataType.FLOAT) and len(found) == 2
        ):
            return height, classes
    raise EngineError(
        "the plan is not one of gnet-edge: expected one input pixels, uint8 (N, crop, crop, 3), and one output logits,"
        " float32 (N, classes); build the bundle again"
    )


def _expect(done: bool, what: str) -> None:
    if not done:
        raise EngineError(f"TensorRT {what}; see its messages in the log")
