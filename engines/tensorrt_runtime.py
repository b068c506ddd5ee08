"""TensorRT on a GPU: a plan, built here when it is missing, and run through pycuda by the tensor-address interface.

`compile_bundle` builds it before anybody waits for an answer.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.dataset import Progress
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.cuda_device import (
    Buffer,
    CudaDevice,
    Graph,
    GraphDriver,
    Recording,
    Timeline,
    load_driver,
    new_stream,
)
from googlenet_edge.engines.devices import DeviceProfile, profile_of, refuse_without_bundles
from googlenet_edge.engines.protocol import DeviceStage, Engine, EngineOptions, EngineSpec, usable
from googlenet_edge.engines.registry import open_bundle
from googlenet_edge.engines.tensorrt_builder import Batches, PlanRequest
from googlenet_edge.engines.tensorrt_layers import Placement
from googlenet_edge.engines.tensorrt_library import (
    Flavour,
    Library,
    errors_in,
    listening,
    load_library,
    shape_of,
    started,
)
from googlenet_edge.engines.tensorrt_plans import Contexts, StoredPlan, plan_at, remove_plan
from googlenet_edge.errors import EngineError
from googlenet_edge.files import sha256_bytes
from googlenet_edge.target import Device, EngineName, Unit

if TYPE_CHECKING:
    import tensorrt

MOST_IMAGES = 8
"""The largest batch that a plan for a GPU takes; it is fastest at one image. More images are run in turns."""

_PIXELS, _LOGITS = "pixels", "logits"
_STEADY = 3
"""A batch size that came so often in a row will come again: it is worth a CUDA graph."""

T = TypeVar("T")


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
            request = PlanRequest(
                model,
                options.precision,
                profile.workspace_bytes,
                Batches(1, 1, 1 if options.unit is Unit.DLA else MOST_IMAGES),
                unit=options.unit,
                calibration_cache=options.calibration_cache,
            )
            hashes = (sha256_bytes(part)[:16] for part in (model, options.calibration_cache) if part)
            folder = plans_folder() / "-".join(hashes)
            plan = plan_at(folder, library, request, gpu=device.name, build=options.build, progress=options.progress)
            return TensorRtEngine(plan, library=library, device=device, options=options, target=profile.device)
    except BaseException as problem:
        traceback.clear_frames(problem.__traceback__)  # which hold what must be released before the device
        device.close()
        raise


def plans_folder() -> Path:
    """Where plans are kept on this machine: they are of no use on another."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "gnet-edge" / "plans"


class TensorRtEngine(Engine):
    """An `Engine` of one plan. Each stream has an execution context, a CUDA stream and buffers of its own."""

    def __init__(
        self, plan: StoredPlan, *, library: Library, device: CudaDevice, options: EngineOptions, target: Device
    ) -> None:
        """Takes the device over, which is current, and gives it back when closed. Raises `EngineError`."""
        self._device, self._library = device, library
        with listening(library) as lines:
            self._runtime = started(library.trt.Runtime, library, lines)
            if plan.record.key.unit is Unit.DLA:
                self._runtime.DLA_core = plan.record.key.dla_core
            self._engine = self._runtime.deserialize_cuda_engine(plan.data)
            if self._engine is None:
                if not plan.reused:
                    remove_plan(plan)
                raise EngineError(f"{library} does not load the plan: {errors_in(lines)}; {_way_out(library, plan)}")
        crop, classes = _interface(self._engine, library)
        self._contexts = Contexts(self._engine, plan, library)
        self._most = int(self._engine.get_tensor_profile_shape(_PIXELS, 0)[2][0])
        shared = library.strongly_typed  # before, contexts cannot share an optimization profile
        streams = options.streams if shared else 1
        version = ".".join(map(str, library.version))
        self.plan = replace(plan, data=b"")  # TensorRT has its own copy
        name, unit = EngineName.TENSORRT.value, plan.record.key.unit
        self.spec = EngineSpec(name, version, target, options.threads, crop, classes, streams, unit=unit)
        gpu_alone = unit is not Unit.DLA and library.flavour is Flavour.TENSORRT
        recording = Recording(wanted=gpu_alone)  # RTX changes its kernels while it runs, and a DLA records nothing
        self._idle: LifoQueue[_Worker | None] = LifoQueue()  # None: closed
        with ExitStack() as made:
            made.callback(self._release)
            for _ in range(streams):
                worker = _Worker(self._contexts, device.driver, recording, most=self._most, crop=crop, classes=classes)
                made.callback(worker.close)
                self._idle.put(worker)
            made.pop_all()  # all are there: they live until `close`
        self._closed = False

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        return np.concatenate(self._each_part(pixels, _Worker.run))

    def timed_run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], dict[DeviceStage, float]]:
        """See `Engine.timed_run`."""
        logits, times = zip(*self._each_part(pixels, _Worker.timed_run), strict=True)
        return np.concatenate(logits), {stage: sum(each[stage] for each in times) for stage in DeviceStage}

    def _each_part(self, pixels: NDArray[np.uint8], run: Callable[[_Worker, NDArray[np.uint8]], T]) -> list[T]:
        """What ``run`` gives for as many images at a time as the plan takes, on a worker that is idle."""
        worker = self._idle.get()
        try:
            worker = usable(worker, pixels, self.spec)
            with self._device.current():
                return [run(worker, pixels[at : at + self._most]) for at in range(0, len(pixels), self._most)]
        except EngineError:
            raise
        except Exception as problem:  # pycuda's errors derive from Exception alone
            raise EngineError(
                f"CUDA failed on a batch of {len(pixels)} ({problem}); open the bundle again"
            ) from problem
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """See `Engine.close`. Waits for runs that are under way; gives back contexts, plan, runtime and device."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as last:
            last.callback(self._device.close)
            last.enter_context(self._device.current())
            last.callback(self._release)
            last.callback(self._idle.put, None)  # for who came too late
            for worker in [self._idle.get() for _ in range(self.spec.streams)]:
                if worker:
                    last.callback(worker.close)
            self._contexts.keep_kernels()

    def _release(self) -> None:
        self._contexts = None  # type: ignore[assignment]  # before the engine that it belongs to
        self._engine = None
        self._runtime = None


class _Worker:
    """What one inference at a time needs.

    The enqueued work is recorded as a CUDA graph once a batch size has come three times in a row, and from then on
    launched, until another size comes: TensorRT lets no graph outlive a change of its context. The buffers, and with
    them the addresses in the graph, stay as long as the worker does.
    """

    def __init__(
        self,
        contexts: Contexts,
        driver: Any,
        recording: Recording,
        *,
        most: int,
        crop: int,
        classes: int,
    ) -> None:
        self._recording = recording
        self._graph: Graph | None = None
        self._count = self._in_a_row = 0
        self._stream = new_stream(driver)
        self._timeline = Timeline(driver)
        with ExitStack() as made:
            self._pixels = Buffer(driver, (most, crop, crop, 3), np.uint8)
            made.callback(self._pixels.free)
            self._logits = Buffer(driver, (most, classes), np.float32)
            made.callback(self._logits.free)
            self._context: Any = contexts.new()
            made.callback(self._drop_context)
            if self._context is None:
                raise EngineError("the GPU has no memory for another execution context; use fewer streams")
            for name, buffer in ((_PIXELS, self._pixels), (_LOGITS, self._logits)):
                _expect(self._context.set_tensor_address(name, buffer.address), f"does not take the address of {name}")
            made.callback(self._forget)
            self._made = made.pop_all()

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """At most as many images as the buffers hold."""
        return self._run(pixels, lambda place: None)

    def timed_run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], dict[DeviceStage, float]]:
        """The same with events between the stages."""
        logits = self._run(pixels, lambda place: self._timeline.mark(place, self._stream))
        return logits, self._timeline.times_ms()

    def close(self) -> None:
        """The graph before the context that it was recorded from, the context before the memory that it reads."""
        self._made.close()
        self._stream = self._timeline = None  # type: ignore[assignment]

    def _run(self, pixels: NDArray[np.uint8], mark: Callable[[int], None]) -> NDArray[np.float32]:
        count = len(pixels)
        self._pixels.host[:count] = pixels
        try:
            try:
                self._queue(pixels.shape, mark)
            finally:
                self._stream.synchronize()  # after a failure, too: the buffers must be idle for the next run
        except BaseException:
            self._forget()
            raise
        logits = np.array(self._logits.host[:count])
        self._in_a_row += 1
        if self._in_a_row == _STEADY and self._recording.wanted:
            self._record(logits)
        return logits

    def _queue(self, shape: tuple[int, ...], mark: Callable[[int], None]) -> None:
        count = shape[0]
        if count != self._count:
            self._forget()
            _expect(self._context.set_input_shape(_PIXELS, shape), f"does not take a batch of {count}")
            self._count = count
        mark(0)
        self._pixels.to_device(self._stream, count)
        mark(1)
        if self._graph:
            self._graph.launch(self._stream.handle)
        else:
            self._enqueue(f"failed on a batch of {count}")
        mark(2)
        self._logits.to_host(self._stream, count)
        mark(3)

    def _enqueue(self, failure: str) -> None:
        _expect(self._context.execute_async_v3(self._stream.handle), failure)

    def _record(self, logits: NDArray[np.float32]) -> None:
        """Records what gave these logits, and keeps the graph where it gives them, too."""
        with self._recording.attempt():
            work = partial(self._enqueue, "refused to be recorded")
            graph = GraphDriver().record(self._stream.handle, work)
            try:
                self._prove(graph, logits)
            except BaseException:
                graph.close()
                raise
            self._graph = graph

    def _prove(self, graph: Graph, logits: NDArray[np.float32]) -> None:
        """The pixels are still there. Raises `EngineError` where it gives other logits for them."""
        count = self._count
        self._logits.host[:count] = np.nan  # what a graph that computes nothing would leave there
        try:
            self._logits.to_device(self._stream, count)
            graph.launch(self._stream.handle)
            self._logits.to_host(self._stream, count)
        finally:
            self._stream.synchronize()
        if not np.array_equal(self._logits.host[:count], logits):
            raise EngineError("its launch gives other logits than TensorRT itself")

    def _forget(self) -> None:
        """The next run tells the context its shape, and enqueues."""
        graph, self._graph = self._graph, None
        self._count = self._in_a_row = 0
        if graph:
            graph.close()

    def _drop_context(self) -> None:
        self._context = None


def _way_out(library: Library, plan: StoredPlan) -> str:
    """What to do about a plan that is not loaded: one that was just built will be no better the next time."""
    if plan.reused:
        return f"remove {plans_folder()}"
    if library.flavour is Flavour.RTX:
        return f"it may not support this GPU ({plan.record.key.gpu}); build the bundle for --device cuda"
    return "it was built just now, so close what else uses the GPU, and look at the log"


def _interface(engine: tensorrt.ICudaEngine, library: Library) -> tuple[int, int]:
    """(crop, classes). Raises `EngineError` where the plan is of another kind."""
    trt = library.trt
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_dtype(name), shape_of(engine.get_tensor_shape(name))) for name in names}
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


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan that gives the bundle's golden logits on the GPU here.

    ``library`` and ``gpu`` made it and alone can run it. ``seconds`` is what its build took, now or, where it is
    ``reused``, before.
    """

    bundle: str
    folder: str
    library: str
    gpu: str
    size: int
    seconds: float
    reused: bool
    placement: Placement
    unit: Unit


def compile_bundle(path: Path, *, progress: Progress | None = None) -> Compiled:
    """Compiles a bundle where that is not done yet, and computes its golden vectors.

    Raises:
        BundleError: the bundle is damaged, or the plan computes something else.
        EngineError: it is for a processor; TensorRT, pycuda or the GPU is missing; or TensorRT refuses the model.
        OutputError: the plan cannot be kept.
    """
    bundle = read_bundle(path)
    device = bundle.manifest.device
    if not profile_of(device).has_tensorrt:
        raise EngineError(
            f"{path} is for a processor and runs as it is, nothing is left to compile; measure it with: gnet-edge bench"
            f" {path}"
        )
    refuse_without_bundles(path, device)
    with open_bundle(bundle, engine=EngineName.TENSORRT, progress=progress) as opened:
        if not isinstance(opened, TensorRtEngine):
            raise EngineError(f"{path} was opened by {opened.spec.backend}, which compiles nothing")
        plan = opened.plan
    record = plan.record
    return Compiled(
        bundle=str(path),
        folder=str(plan.folder),
        library=record.key.library,
        gpu=record.key.gpu,
        size=record.size,
        seconds=record.seconds,
        reused=plan.reused,
        placement=record.placement,
        unit=record.key.unit,
    )
