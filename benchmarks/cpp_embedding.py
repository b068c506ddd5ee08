"""libgne inside a C++ program: a fresh process, the steady state against Python, and threads that share one engine.

The image is a generated JPEG of 640×480. Needs cmake, a C++ compiler and libjpeg-turbo's header:
sudo apt install cmake g++ libjpeg-dev
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import Figure, Result, at_least, conclude, parser, run
from int8_latency import make_bundles

import googlenet_edge
from googlenet_edge.engines.bench import generated_jpeg
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.predictor import DEFAULT_TOP_K, Predictor
from googlenet_edge.engines.timing import paired_ratio, settled, take_turns, warm_up
from googlenet_edge.errors import EngineError
from googlenet_edge.statistics import median_interval, summarize

SOURCE = Path(__file__).parents[1] / "engines" / "cpp"
THREADS, RUNS = 8, 10
MOST_S, MOST_MB, MOST_GROWTH_MB = 0.25, 60, 1.0
MOST_CPP_MS, MOST_PYTHON_MS = 1.5, 2.5  # from a JPEG to labels, without the inference


@dataclass(frozen=True, slots=True)
class Start:
    """A fresh process: from before its start to the labels, and the peak of its resident memory (VmHWM)."""

    total_ms: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Threads that share one engine: inferences, and resident memory after a quarter of the time and at the end."""

    inferences: int
    early_mb: float
    late_mb: float


class Gne:
    """As much of libgne, through `ctypes`, as is timed here."""

    def __init__(self, library: Path, bundle: Path, *, k: int) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.gne_last_error.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p()
        self.checked(self.library.gne_open(bytes(bundle), None, ctypes.byref(self.handle)))
        self.k = ctypes.c_size_t(k)
        self.predictions = (ctypes.c_uint64 * 3 * k)()  # label, index, probability

    def checked(self, status: int) -> None:
        """Raises `EngineError`."""
        if status:
            raise EngineError(self.library.gne_last_error().decode())

    def classify(self, jpeg: bytes) -> None:
        """JPEG to the k best."""
        size = ctypes.c_size_t(len(jpeg))
        self.checked(self.library.gne_classify_jpeg(self.handle, jpeg, size, self.k, self.predictions))

    def infer(self, pixels: np.ndarray, logits: np.ndarray) -> None:
        """Pixels to logits."""
        room = [(ctypes.c_void_p(each.ctypes.data), ctypes.c_size_t(each.size)) for each in (pixels, logits)]
        self.checked(self.library.gne_run(self.handle, *room[0], *room[1]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("bundle", type=Path, nargs="?", help="default: a made one, 1,000 classes at 224×224")
    options.add_argument("--starts", type=at_least(6), default=40, help="fresh processes, 6 or more")
    options.add_argument("--rounds", type=at_least(6), default=40, help="interleaved rounds of ten runs each")
    options.add_argument("--seconds", type=at_least(1), default=60, help="how long the threads share an engine")
    options.add_argument("--build", type=Path, help="a folder in which libgne was built with -DGNE_TESTS=ON")
    given = options.parse_args()
    circumstances = read_circumstances()
    os.environ.setdefault("GNE_ONNXRUNTIME", str(wheel_runtime()))
    with tempfile.TemporaryDirectory() as folder:
        build = given.build or build_in(Path(folder) / "build")
        image = Path(folder) / "image.jpg"
        image.write_bytes(generated_jpeg())
        bundle = given.bundle or make_bundles(Path(folder))[1]
        starts = [start(build, bundle, image) for _ in range(given.starts)]
        rounds = take_rounds(build, bundle, image.read_bytes(), given.rounds)
        crowd = share(build, bundle, image, given.seconds)
    figures = (*start_figures(starts), *steady_figures(rounds), *crowd_figures(crowd))
    conclude(Result(figures, circumstances, {"starts": starts, "rounds_ms": rounds, "crowd": crowd}), given.out)


def wheel_runtime() -> Path:
    """The shared library of the Python package. Raises `EngineError`."""
    found = find_spec("onnxruntime")
    for folder in (found and found.submodule_search_locations) or ():
        for library in Path(folder).glob("capi/libonnxruntime.so.*"):
            return library
    raise EngineError("this ONNX Runtime has no shared library; name one in $GNE_ONNXRUNTIME")


def build_in(folder: Path) -> Path:
    """libgne and its programs, as a release. Raises `EngineError`."""
    output_of("cmake", "-S", SOURCE, "-B", folder, "-DGNE_TESTS=ON")
    output_of("cmake", "--build", folder, "--parallel")
    return folder


def output_of(*command: object) -> str:
    """What a program writes. Raises `EngineError`."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    except OSError as problem:
        raise EngineError(f"{command[0]} cannot be started: {problem.strerror}") from problem
    if done.returncode != 0:
        raise EngineError(f"{command[0]} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return done.stdout


def start(build: Path, bundle: Path, image: Path) -> Start:
    """One fresh process. Raises `EngineError`."""
    total_ms, peak_kib = output_of(build / "tests" / "cold", bundle, image, repr(time.monotonic())).split()
    return Start(float(total_ms), int(peak_kib) * 1024 / 1e6)


def take_rounds(build: Path, bundle: Path, jpeg: bytes, rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Milliseconds by round of C++, of Python, and of the inference alone, in turns in one process, with 1 thread."""
    with googlenet_edge.load(bundle) as predictor:
        gne = Gne(build / "libgne.so", bundle, k=min(DEFAULT_TOP_K, len(predictor.labels)))
        calls = {
            "cpp": partial(gne.classify, jpeg),
            "python": partial(predictor.predict, jpeg),
            "inference": inference(gne, predictor),
        }
        for call in calls.values():
            warm_up(call, time.perf_counter)
        turns = [partial(settled, call, RUNS, time.perf_counter) for call in calls.values()]
        return dict(zip(calls, take_turns(turns, rounds, lambda: None), strict=True))


def inference(gne: Gne, predictor: Predictor) -> partial[None]:
    """The model alone, on pixels that are there."""
    crop = predictor.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (1, crop, crop, 3), np.uint8)
    return partial(gne.infer, pixels, np.empty((1, len(predictor.labels)), np.float32))


def share(build: Path, bundle: Path, image: Path, seconds: int) -> Crowd:
    """Threads on one engine. Raises `EngineError`, also where one gets other logits."""
    found = output_of(build / "tests" / "crowd", bundle, image, THREADS, 0, seconds).split()
    inferences, early, late = map(int, found)
    return Crowd(inferences, early * 1024 / 1e6, late * 1024 / 1e6)


def start_figures(starts: list[Start]) -> tuple[Figure, ...]:
    """The fresh process."""
    totals = [each.total_ms / 1e3 for each in starts]
    summary, interval = summarize(totals), median_interval(totals)
    detail = f"n = {summary.count}, 95 % interval {interval.low:.3f}…{interval.high:.3f} s, p90 {summary.p90:.3f} s"
    peak = max(each.peak_mb for each in starts)
    return (
        Figure("fresh process, JPEG to top-5", summary.p50, "s", most=MOST_S, detail=detail),
        Figure("its peak memory", peak, "MB", most=MOST_MB, detail="VmHWM, the highest of all starts"),
    )


def steady_figures(rounds: dict[str, list[tuple[float, ...]]]) -> tuple[Figure, ...]:
    """One engine that goes on."""
    medians = {name: [statistics.median(each) for each in found] for name, found in rounds.items()}
    ratio = paired_ratio(rounds["cpp"], rounds["python"])
    words = f"95 % interval {ratio.interval.low:.3f}…{ratio.interval.high:.3f}"
    return (
        Figure("C++, JPEG to top-5", statistics.median(medians["cpp"]), "ms"),
        Figure("Python, JPEG to top-5", statistics.median(medians["python"]), "ms"),
        Figure("C++ / Python", ratio.ratio, most=1, detail=words),
        without_inference("C++", medians["cpp"], medians["inference"], most=MOST_CPP_MS),
        without_inference("Python", medians["python"], medians["inference"], most=MOST_PYTHON_MS),
    )


def without_inference(name: str, whole: list[float], inference: list[float], *, most: float) -> Figure:
    """What decoding, preprocessing and ranking take, in ms: the median over rounds of the difference."""
    beside = [a - b for a, b in zip(whole, inference, strict=True)]
    interval = median_interval(beside)
    detail = f"95 % interval {interval.low:.2f}…{interval.high:.2f} ms"
    return Figure(f"{name} without the inference", statistics.median(beside), "ms", most=most, detail=detail)


def crowd_figures(crowd: Crowd) -> tuple[Figure, ...]:
    """Threads that share."""
    detail = f"{THREADS} threads, {crowd.inferences} inferences with the same logits, {crowd.late_mb:.0f} MB at the end"
    growth = crowd.late_mb - crowd.early_mb
    return (Figure("growth of the memory of one engine", growth, "MB", most=MOST_GROWTH_MB, detail=detail),)


if __name__ == "__main__":
    run(main)
