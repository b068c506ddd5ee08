"""The first prediction of a fresh process: how long it takes from its start, and how much memory.

`main` with SPAWNED THREADS BUNDLE IMAGE [ENGINE] is that process; it writes a `ColdStart` as JSON on stdout.
``SPAWNED`` is its parent's `time.monotonic` just before, a clock that all processes share.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import googlenet_edge
from googlenet_edge.engines.circumstances import peak_memory_mb
from googlenet_edge.errors import EdgeError, EngineError
from googlenet_edge.files import from_json, to_json
from googlenet_edge.statistics import Count, NonNegative
from googlenet_edge.target import EngineName

_TIMEOUT_S = 120
_PROGRAM = """import sys
sys.path[:] = filter(None, sys.path)
from googlenet_edge.engines.cold_start import main
sys.exit(main())"""  # the folder in which somebody measures is no place for modules


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Milliseconds of the steps: Python with ``import googlenet_edge``, opening the bundle, the first prediction."""

    start_ms: NonNegative
    load_ms: NonNegative
    first_ms: NonNegative
    peak_memory_mb: Count | None

    @property
    def total_ms(self) -> float:
        """From the start of the process to the labels."""
        return self.start_ms + self.load_ms + self.first_ms


def cold_start(bundle: Path, image: Path, *, threads: int, engine: EngineName | None = None) -> ColdStart:
    """Starts a process that predicts once. Raises `EngineError` where it fails or takes more than two minutes."""
    named = [engine.value] if engine else []
    arguments = [repr(time.monotonic()), str(threads), str(bundle), str(image), *named]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise EngineError(f"a fresh process could not predict with {bundle}: {problem}") from problem
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit {done.returncode}"
        raise EngineError(f"a fresh process could not predict with {bundle}: {reason}")
    return from_json(done.stdout, ColdStart, where="the cold start's result", error=EngineError)


def main() -> int:
    """The fresh process."""
    entered = time.monotonic()
    spawned, threads, bundle, image = float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    engine = EngineName(sys.argv[5]) if sys.argv[5:] else None
    try:
        with googlenet_edge.load(bundle, threads=threads, engine=engine) as predictor:
            loaded = time.monotonic()
            predictor.predict(image)
            predicted = time.monotonic()
            memory = peak_memory_mb()
    except EdgeError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    start, load, first = (1e3 * (b - a) for a, b in pairwise((spawned, entered, loaded, predicted)))
    sys.stdout.buffer.write(to_json(ColdStart(start, load, first, memory)))
    return 0
