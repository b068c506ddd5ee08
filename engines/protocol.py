"""What every backend is: a thing that turns a batch into logits, and says what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.errors import EngineError
from googlenet_edge.target import Device


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is opened.

    ``weight_bits`` says how many bits INT8 weights use. With 7, the 16-bit sums of an x86 processor without VNNI
    cannot saturate; with 8 a backend must take a slower, exact way on such a processor.
    """

    threads: int = 1
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise EngineError(f"threads is {self.threads}; give 1 or more")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an open engine is: float32 ``(N, 3, crop, crop)`` → float32 ``(N, classes)``."""

    backend: str
    version: str
    device: Device
    threads: int
    crop: int
    classes: int


class Engine(Protocol):
    """A model, loaded and ready. It may be used from several threads at once, and is closed once."""

    @property
    def spec(self) -> EngineSpec:
        """What this engine is."""

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalized images, float32 ``(N, 3, crop, crop)`` with N of 1 or more → logits, float32 ``(N, classes)``.

        Raises:
            EngineError: another shape or type, a value that is not finite, or the engine is closed.
        """

    def close(self) -> None:
        """Gives memory and device back. A second call does nothing."""

    def __enter__(self) -> Engine:
        """The engine itself; leaving the block closes it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_batch(batch: NDArray[np.float32], spec: EngineSpec) -> None:
    """Refuses what an engine of this kind cannot compute. Raises `EngineError`."""
    expected = f"float32 (N, 3, {spec.crop}, {spec.crop})"
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[1:] != (3, spec.crop, spec.crop):
        raise EngineError(f"the batch is {batch.dtype} {batch.shape}, expected {expected}; use Preprocess.normalize")
    if len(batch) == 0:
        raise EngineError(f"the batch is empty, expected {expected} with N of 1 or more")
    if not (math.isfinite(batch.min()) and math.isfinite(batch.max())):  # NaN passes through both
        raise EngineError("the batch holds NaN or infinity; use Preprocess.normalize on whole images")
