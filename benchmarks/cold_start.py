"""The first prediction of a fresh process: Python's start, the imports, loading the bundle, and one prediction.

The image is a generated JPEG of 640×480. Every start is a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Figure, Result, at_least, conclude, parser, run

from googlenet_edge.console import bar
from googlenet_edge.engines.bench import generated_jpeg
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.cold_start import ColdStart, cold_start
from googlenet_edge.errors import EngineError
from googlenet_edge.statistics import median_interval, summarize

MOST_S, MOST_MB = 0.6, 130
MODULES_AFTER_PREDICTION = """
import sys, googlenet_edge
with googlenet_edge.load(sys.argv[1]) as model:
    model.predict(sys.argv[2])
print(*sorted(sys.modules))
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--starts", type=at_least(6), default=40, help="fresh processes, 6 or more")
    given = options.parse_args()
    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        image.write_bytes(generated_jpeg())
        modules = modules_after_prediction(given.bundle, image)
        starts = start_often(given.bundle, image, given.starts)
    figures = (*time_figures(starts), memory_figure(starts), torch_figure(modules))
    conclude(Result(figures, circumstances, starts), given.out)


def start_often(bundle: Path, image: Path, count: int) -> list[ColdStart]:
    """Starts process after process."""
    starts = []
    with bar("starting") as progress:
        for done in range(1, count + 1):
            starts.append(cold_start(bundle, image, threads=1))
            progress(done, count)
    return starts


def time_figures(starts: list[ColdStart]) -> tuple[Figure, ...]:
    """The whole, and its three parts."""
    totals = [start.total_ms / 1e3 for start in starts]
    summary, interval = summarize(totals), median_interval(totals)
    detail = (
        f"n = {summary.count}, 95 % interval {interval.low:.3f}…{interval.high:.3f} s, p90 {summary.p90:.3f} s,"
        f" spread {summary.spread:.1%}"
    )
    parts = {
        "Python and import": [start.start_ms for start in starts],
        "load": [start.load_ms for start in starts],
        "first prediction": [start.first_ms for start in starts],
    }
    return (
        Figure("import + load + first prediction", summary.p50, "s", most=MOST_S, detail=detail),
        *(Figure(f"of that, {name}", statistics.median(ms) / 1e3, "s") for name, ms in parts.items()),
    )


def memory_figure(starts: list[ColdStart]) -> Figure:
    """The highest peak of all starts that know theirs."""
    peaks = [start.peak_memory_mb for start in starts if start.peak_memory_mb is not None]
    unknown = f", not known of {len(starts) - len(peaks)} of {len(starts)}" if len(peaks) < len(starts) else ""
    highest = max(peaks, default=float("nan"))
    return Figure("peak memory", highest, "MB", most=MOST_MB, detail=f"VmHWM, the highest of all starts{unknown}")


def torch_figure(modules: set[str]) -> Figure:
    """How many modules of PyTorch were imported."""
    found = [name for name in modules if name.split(".")[0] == "torch"]
    return Figure("modules of torch imported", len(found), most=0, detail=f"of {len(modules)} modules")


def modules_after_prediction(bundle: Path, image: Path) -> set[str]:
    """What a process that predicted once has imported. Raises `EngineError`."""
    command = [sys.executable, "-c", MODULES_AFTER_PREDICTION, str(bundle), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{bundle} gives no prediction: {done.stderr.strip().rpartition(chr(10))[2]}")
    return set(done.stdout.split())


if __name__ == "__main__":
    run(main)
