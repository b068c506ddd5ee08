"""What the scripts of the peers share: what they are given, and how they answer.

It runs in the environments of the peers, which have numpy but not this package. A script is called with two folders:
the first holds ``googlenet.onnx`` (``images`` float32 ``(N, 3, crop, crop)`` → ``logits``) and ``calibration.npy``
(float32 ``(n, 3, crop, crop)``, normalized); into the second it writes its model and ``result.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUT = "images"
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Handover:
    """What every peer is given.

    Attributes:
        images: float32 ``(n, 3, crop, crop)``, read from the file as they are asked for.
        out: the folder for the model.
        saturates: whether this processor's sums of u8·s8 products overflow, so that weights had better have 7 bits.
        at_once: how many images' activations may be held in memory, a divisor of n; all where it is None.
    """

    graph: Path
    images: NDArray[np.float32]
    out: Path
    saturates: bool
    at_once: int | None

    def batches(self) -> Iterator[NDArray[np.float32]]:
        """float32 ``(1, 3, crop, crop)`` for every image."""
        for image in self.images:
            yield np.array(image[None])


def answer(quantize: Callable[[Handover], object], packages: Sequence[str]) -> None:
    """Quantizes, and writes how long that took, the most memory of this process, and the versions of ``packages``.

    Where memory runs out, ``full.json`` says how much this process had by then, in MB.
    """
    given = _given()
    _limit_memory()
    started = time.perf_counter()
    try:
        quantize(given)
    except MemoryError:
        (given.out / "full.json").write_text(json.dumps(_peak_memory_mb()))
        raise
    seconds = time.perf_counter() - started
    found = {
        "seconds": seconds,
        "peak_memory_mb": _peak_memory_mb(),
        "versions": {name: version(name) for name in packages},
    }
    (given.out / "result.json").write_text(json.dumps(found, indent=2))


def _given() -> Handover:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("given", type=Path, help="folder with the graph and the images")
    options.add_argument("out", type=Path, help="folder for the model")
    options.add_argument("--saturates", action="store_true", help="the processor's sums of u8·s8 overflow")
    options.add_argument("--at-once", type=int, metavar="N", help="hold the activations of N images, not of all")
    found = options.parse_args()
    images = np.load(found.given / "calibration.npy", mmap_mode="r")
    at_once = found.at_once and _divisor(len(images), most=found.at_once)
    return Handover(found.given / "googlenet.onnx", images, found.out, found.saturates, at_once)


def _divisor(number: int, *, most: int) -> int:
    """The largest divisor up to ``most``: ONNX Runtime takes no other share of the images at a time."""
    return next(size for size in range(min(most, number), 0, -1) if number % size == 0)


def _limit_memory() -> None:
    """Has this process fail, and not the machine, where it wants more memory than is free."""
    most = int(MEMORY_SHARE * _kibibytes(Path("/proc/meminfo"), "MemAvailable") * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _peak_memory_mb() -> float:
    return _kibibytes(Path("/proc/self/status"), "VmHWM") * 1024 / 1e6


def _kibibytes(path: Path, field: str) -> int:
    """The number of a line ``field: number kB``."""
    lines: dict[str, Any] = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines[field].split()[0])
