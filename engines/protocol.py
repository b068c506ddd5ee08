"""What every backend is: a thing that turns a batch into logits, and says what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.dataset import Progress
from googlenet_edge.errors import EngineError
from googlenet_edge.statistics import Count, Tally
from googlenet_edge.target import Device, Precision, Unit
from googlenet_edge.workspace import MOST_THREADS

T = TypeVar("T")
NOT_LOWERED = (
    "the model is not one that gnet-edge lowered: expected one input uint8 (N, crop, crop, 3) and one output float32"
    " (N, classes)"
)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is opened: ``streams`` inferences may run at the same time, each on ``threads`` processor threads.

    ``weight_bits`` says how many bits INT8 weights use. With 7, the 16-bit sums of an x86 processor without VNNI
    cannot saturate; with 8 a backend must take a slower, exact way on such a processor. ``precision``, ``unit`` and
    ``calibration_cache`` are for runtimes that compile the model: they may do so only where ``build`` is true, and tell
    ``progress`` how far they are.
    """

    threads: int = 1
    weight_bits: int = 8
    streams: int = 1
    precision: Precision = Precision.FP32
    build: bool = True
    progress: Progress | None = field(default=None, compare=False)
    unit: Unit = Unit.MAIN
    calibration_cache: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        for name, count in (("threads", self.threads), ("streams", self.streams)):
            if not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
                raise EngineError(f"{name} is {count!r}; give 1 to {MOST_THREADS}")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an open engine is: uint8 ``(N, crop, crop, 3)`` → float32 ``(N, classes)``.

    ``streams`` calls of `Engine.run` may go on at the same time, each on ``threads`` processor threads; more of them
    wait for each other, or share the processor. ``nodes`` says which part of a runtime computes how many operators,
    where there are several parts and the runtime tells. ``unit`` is the part of the device that it runs on.
    """

    backend: str
    version: str
    device: Device
    threads: Count
    crop: Count
    classes: Count
    streams: Count = 1
    nodes: dict[str, Tally] = field(default_factory=dict)
    unit: Unit = Unit.MAIN

    def __str__(self) -> str:
        """Such as ``tensorrt 10.3.0 on the DLA``."""
        return f"{self.backend} {self.version}{' on the DLA' if self.unit is Unit.DLA else ''}"


class DeviceStage(Enum):
    """The parts of an inference on a device with memory of its own: pixels to it, the network, logits back."""

    COPY_IN = "copy-in"
    COMPUTE = "compute"
    COPY_OUT = "copy-out"


class Engine(Protocol):
    """A model, loaded and ready. It may be used from several threads at once, and is closed once."""

    spec: EngineSpec

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels, uint8 ``(N, crop, crop, 3)`` with N of 1 or more → logits, float32 ``(N, classes)``.

        The model normalizes them itself.

        Raises:
            EngineError: another shape or type, or the engine is closed.
        """

    def timed_run(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], dict[DeviceStage, float]]:
        """`run`, and the milliseconds of every stage by the device's own clock, where it has one."""
        return self.run(pixels), {}

    def close(self) -> None:
        """Gives memory and device back. A second call does nothing."""

    def __enter__(self) -> Engine:
        """The engine itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def usable(session: T | None, pixels: NDArray[np.uint8], spec: EngineSpec) -> T:
    """The session of an engine that is open, where it can compute the batch. Raises `EngineError`."""
    if session is None:
        raise EngineError("the engine is closed; open the bundle again")
    expected = f"uint8 (N, {spec.crop}, {spec.crop}, 3)"
    if not isinstance(pixels, np.ndarray):
        raise EngineError(f"the batch is a {type(pixels).__name__}, expected {expected}; use Preprocess.pixels")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (spec.crop, spec.crop, 3):
        raise EngineError(f"the batch is {pixels.dtype} {pixels.shape}, expected {expected}; use Preprocess.pixels")
    if len(pixels) == 0:
        raise EngineError(f"the batch is empty, expected {expected} with N of 1 or more")
    return session
