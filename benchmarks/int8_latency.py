"""How long INT8 takes against FP32, one image at a time, with 1 and with 2 threads; each in one interleaved run.

Without --bundles it makes a GoogLeNet for 1,000 classes at 224×224 with random weights, which take the same time as
trained ones, and builds both bundles in a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Figure, Result, at_least, conclude, parser, run

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.console import bar
from googlenet_edge.dataset import check_images
from googlenet_edge.engines.bench import bench
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.measurement import BundleMeasurement, Measurement, Samples
from googlenet_edge.engines.rounds import BenchPlan
from googlenet_edge.target import Precision

CLASSES, SIZE, IMAGES = 1000, 224, 36
MOST_RATIO = {1: 0.36, 2: 0.40}
MOST_MB = 7.2


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bundles", type=Path, nargs=2, metavar=("FP32", "INT8"), help="measure these instead")
    options.add_argument("--rounds", type=at_least(6), default=40, help="interleaved rounds of ten runs each")
    given = options.parse_args()
    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as folder:
        paths = given.bundles or make_bundles(Path(folder))
        measured = {threads: measure(paths, threads=threads, rounds=given.rounds) for threads in MOST_RATIO}
    figures = [figure for threads, found in measured.items() for figure in latency_figures(found, threads)]
    figures.append(size_figure(measured[1].bundles[1]))
    samples = {threads: samples_of(found) for threads, found in measured.items()}
    conclude(Result(tuple(figures), circumstances, samples), given.out)


def make_bundles(folder: Path) -> list[Path]:
    """An FP32 and an INT8 bundle of the same made network."""
    from made import generated_images, made_graph, write_made_bundle  # noqa: PLC0415  (torch, for this alone)

    graph = made_graph(classes=CLASSES, size=SIZE)
    images = generated_images(folder / "images", count=IMAGES, size=SIZE)
    with bar("calibrating") as progress:
        checked = check_images(images, preprocess=graph.preprocess)
        table = calibrate(graph, checked, method=RangeMethod.MINMAX, progress=progress)
    paths = []
    for precision in (Precision.FP32, Precision.INT8):
        paths.append(folder / precision.value)
        write_made_bundle(paths[-1], graph, precision=precision, table=table, images=images)
    return paths


def measure(paths: list[Path], *, threads: int, rounds: int) -> Measurement:
    """One interleaved run of both bundles."""
    plan = BenchPlan(threads=threads, rounds=rounds, batches=(), cold_starts=1)
    with bar(f"measuring with {threads} threads") as progress:
        return bench(paths, plan=plan, progress=progress)


def latency_figures(found: Measurement, threads: int) -> list[Figure]:
    """The two latencies and their ratio; the limit holds for inputs of 224×224."""
    asked = MOST_RATIO[threads] if found.bundles[0].engine.crop == SIZE else None
    words = "1 thread" if threads == 1 else f"{threads} threads"
    figures = []
    for bundle in found.bundles:
        summary = bundle.latency.summary_ms
        detail = f"n = {summary.count}, p90 {summary.p90:.2f} ms, spread {summary.spread:.1%}"
        figures.append(Figure(f"{bundle.precision.value} p50, {words}", summary.p50, "ms", detail=detail))
    (ratio,) = found.ratios
    detail = f"95 % interval {ratio.interval.low:.3f}…{ratio.interval.high:.3f}"
    return [*figures, Figure(f"int8 / fp32, {words}", ratio.ratio, most=asked, detail=detail)]


def samples_of(found: Measurement) -> dict[str, Samples]:
    """Every timed inference, by precision."""
    return {bundle.precision.value: bundle.latency for bundle in found.bundles}


def size_figure(bundle: BundleMeasurement) -> Figure:
    """The size of the folder; the limit holds for 1,000 classes."""
    classes = bundle.engine.classes
    asked = MOST_MB if classes == CLASSES else None
    name = f"size of the {bundle.precision.value} bundle"
    return Figure(name, bundle.bundle_bytes / 1e6, "MB", most=asked, detail=f"{classes} classes")


if __name__ == "__main__":
    run(main)
