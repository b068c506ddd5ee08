"""What measuring adds by itself: to an inference of exactly one millisecond, and to a core that watches sensors.

The engine spins for a millisecond and computes nothing, so whatever the benchmark says beyond that is its own. Sensors
are those of the Jetson AGX Orin of the tests, which is made of files; --root / watches the machine's own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Figure, Result, at_least, conclude, parser, run
from numpy.typing import NDArray

from googlenet_edge.engines.bench import generated_jpeg
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.measurement import Samples
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import Engine, EngineSpec
from googlenet_edge.engines.rounds import BenchPlan, measure
from googlenet_edge.engines.sensors import Watch
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device

SPIN_MS = 1.0
MOST_P50_PERCENT, MOST_P99_PERCENT, MOST_CORE_PERCENT = 1.0, 3.0, 1.0
RATES_HZ = (1, 5, 20)
TESTS = Path(__file__).resolve().parents[1] / "tests"


class Spinning(Engine):
    """An `Engine` that takes a millisecond of the real clock."""

    spec = EngineSpec("spinning", "1", Device.CPU, threads=1, crop=32, classes=2)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        end = time.perf_counter() + SPIN_MS / 1e3
        while time.perf_counter() < end:
            pass
        return np.zeros((len(pixels), 2), np.float32)

    def close(self) -> None:
        pass


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=at_least(6), default=100, help="rounds of ten runs")
    options.add_argument("--seconds", type=at_least(1), default=20, help="how long sensors are watched at each rate")
    options.add_argument("--root", type=Path, help="where a machine describes itself; default: a Jetson made of files")
    given = options.parse_args()
    circumstances = read_circumstances()
    latency = measured_latency(given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        shares = {hz: watched_share(given.root or made_of_files(Path(folder)), hz, given.seconds) for hz in RATES_HZ}
    figures = (*own_time(latency), *(core_share(hz, share) for hz, share in shares.items()))
    conclude(Result(figures, circumstances, {"latency": latency, "core_shares": shares}), given.out)


def measured_latency(rounds: int) -> Samples:
    """What the benchmark says of the engine."""
    predictor = Predictor(Spinning(), labels=("a", "b"), preprocess=Preprocess(resize=36, crop=32))
    plan = BenchPlan(rounds=rounds, batches=())
    [found] = measure([predictor], generated_jpeg(), plan=plan, clock=time.perf_counter, tick=lambda: None)
    return found.latency


def watched_share(root: Path, hz: int, seconds: int) -> float:
    """The share of one core that the watch takes."""
    with Watch(root, clock=time.perf_counter, hz=hz) as watch:
        time.sleep(seconds)
    return watch.watched().core_share


def made_of_files(folder: Path) -> Path:
    """The AGX Orin of the tests."""
    sys.path.insert(0, str(TESTS))
    from fake_jetson import AGX_ORIN, fake_jetson  # noqa: PLC0415  (of the tests, where they are)

    return fake_jetson(folder, AGX_ORIN)


def own_time(latency: Samples) -> Iterator[Figure]:
    summary = latency.summary_ms
    for name, ms, most in (("p50", summary.p50, MOST_P50_PERCENT), ("p99", summary.p99, MOST_P99_PERCENT)):
        detail = f"{ms:.4f} ms of {summary.count} runs"
        yield Figure(f"{name} of an inference of 1 ms, beyond it", 100 * (ms / SPIN_MS - 1), "%", most, detail=detail)


def core_share(hz: int, share: float) -> Figure:
    return Figure(f"watching sensors at {hz} Hz", 100 * share, "% of a core", MOST_CORE_PERCENT)


if __name__ == "__main__":
    run(main)
