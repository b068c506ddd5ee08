"""The quantized models at work: each opened by its runtime, evaluated in a process of its own, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.console import bar
from googlenet_edge.engines.bundle import MODEL, read_bundle
from googlenet_edge.engines.measurement import Samples, samples
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import open_bundle
from googlenet_edge.engines.timing import WarmUp, settled, take_turns, warm_up
from googlenet_edge.errors import EngineError
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.processor import read_processor

RUNS = 10  # in each round, as `gnet-edge bench` makes them
T = TypeVar("T")


class Runner(Enum):
    """What executes a model."""

    BUNDLE = "bundle"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Sums(Enum):
    """How a runtime adds products of u8 and s8 where they may overflow; the value is `EngineOptions.weight_bits`."""

    AS_SET_UP = 7  # nothing is asked of it
    EXACT = 8  # it is asked for exact sums where the processor would let them overflow


@dataclass(frozen=True, slots=True)
class Contender:
    """A model with what executes it. ``path`` is a bundle's folder, an ``.onnx`` or an ``.xml`` with its ``.bin``."""

    name: str
    path: Path
    runner: Runner
    sums: Sums = Sums.AS_SET_UP
    timed: bool = True

    @property
    def model_bytes(self) -> int:
        """The size of the model without what else a bundle holds."""
        files = [self.path / MODEL] if self.runner is Runner.BUNDLE else self.path.parent.glob(f"{self.path.stem}.*")
        return sum(path.stat().st_size for path in files if path.suffix in {".onnx", ".xml", ".bin"})


@dataclass(frozen=True, slots=True)
class Subject:
    """What the models are judged on: a file with uint8 ``(n, crop, crop, 3)``, and what peers want done to it."""

    pixels: Path
    preprocess: Preprocess


@dataclass(frozen=True, slots=True)
class Timing:
    """Inference of one image, in milliseconds."""

    warm_up: WarmUp
    latency: Samples


@dataclass(frozen=True, slots=True)
class Opened:
    """``prepare`` makes of pixels uint8 ``(1, crop, crop, 3)`` what ``infer`` takes to logits ``(1, classes)``.

    Only ``infer`` is timed: a bundle's normalizes, the others' are given normalized tensors.
    """

    prepare: Callable[[NDArray[np.uint8]], NDArray[Any]]
    infer: Callable[[NDArray[Any]], NDArray[np.float32]]


def logits_of(contender: Contender, subject: Subject, *, threads: int) -> NDArray[np.float32]:
    """float32 ``(n, classes)``, image by image."""
    pixels, found = np.load(subject.pixels, mmap_mode="r"), []
    with opened(contender, subject.preprocess, threads) as model, bar(contender.name) as progress:
        for done, image in enumerate(pixels, start=1):
            found.append(model.infer(model.prepare(np.array(image[None]))))
            progress(done, len(pixels))
    return np.concatenate(found)


def time_in_turns(contenders: Sequence[Contender], subject: Subject, *, threads: int, rounds: int) -> list[Timing]:
    """All contenders in one process, in rounds of ten runs each whose order rotates."""
    image = np.array(np.load(subject.pixels, mmap_mode="r")[:1])
    with ExitStack() as stack, bar(f"timing, threads: {threads}") as progress:
        models = [stack.enter_context(opened(each, subject.preprocess, threads)) for each in contenders]
        calls = [partial(model.infer, model.prepare(image)) for model in models]
        done = iter(range(1, len(calls) * (1 + rounds) + 1))

        def tick() -> None:
            progress(next(done), len(calls) * (1 + rounds))

        warm = take_turns([partial(warm_up, call, time.perf_counter) for call in calls], 1, tick)
        times = take_turns([partial(settled, call, RUNS, time.perf_counter) for call in calls], rounds, tick)
    return [Timing(once[0], samples(latency)) for once, latency in zip(warm, times, strict=True)]


def in_fresh_process(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """Calls a function of a module in a process that did nothing else. Raises what it raises.

    Raises:
        EngineError: the process died, such as of a runtime's fault or for want of memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        try:
            return fresh.submit(function, *arguments, **named).result()
        except BrokenProcessPool as problem:
            raise EngineError("its process died") from problem


@contextmanager
def opened(contender: Contender, preprocess: Preprocess, threads: int) -> Iterator[Opened]:
    """A model that is ready to run. Raises `EngineError`, or what its runtime raises."""
    options = EngineOptions(threads, weight_bits=contender.sums.value)
    if contender.runner is Runner.BUNDLE:
        with open_bundle(read_bundle(contender.path), threads=threads) as engine:
            yield Opened(lambda pixels: pixels, engine.run)
    elif contender.runner is Runner.ONNXRUNTIME:
        yield Opened(preprocess.normalize, _onnxruntime(contender.path, options))
    else:
        yield Opened(preprocess.normalize, _openvino(contender.path, options))


def _onnxruntime(path: Path, options: EngineOptions) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    import onnxruntime  # noqa: PLC0415  (a runtime is loaded when used)

    from googlenet_edge.engines.onnxruntime_cpu import session_options  # noqa: PLC0415  (as above)

    settings = session_options(options, processor=read_processor())
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    (output,), (input_,) = session.get_outputs(), session.get_inputs()

    def infer(images: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(session.run([output.name], {input_.name: images})[0], dtype=np.float32)

    return infer


def _openvino(path: Path, options: EngineOptions) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    from googlenet_edge.engines import openvino_cpu as ours  # noqa: I001, PLC0415  (keeps it from reporting)
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape([1, *network.inputs[0].partial_shape[1:]])
    with ours.signal_stack_kept():
        compiled = core.compile_model(network, "CPU", ours.settings(options, processor=read_processor()))
    request = compiled.create_infer_request()

    def infer(images: NDArray[Any]) -> NDArray[np.float32]:
        return np.array(request.infer([images], share_inputs=True, share_outputs=True)[0], dtype=np.float32)

    return infer
