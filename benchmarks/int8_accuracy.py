"""What INT8 costs in accuracy: as built, for TensorRT and a DLA simulated, each range method alone, and a peer.

All models are lowered from the same FP32 graph with the same calibration images of train/, and judged on the same
images of val/.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Figure, Result, at_least, conclude, markdown, parser, run, show
from numpy.typing import NDArray
from onnxruntime_peer import quantized_by_onnxruntime

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.checkpoint import read_checkpoint
from googlenet_edge.console import bar
from googlenet_edge.dataset import Checked, ImageSet, check_images, load_pixels, open_dataset, stratified_sample
from googlenet_edge.engines.accuracy import Comparison, Evaluation, compare
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.predictor import ranking
from googlenet_edge.engines.registry import SIMULATION, Backend, backend_for
from googlenet_edge.engines.sensitivity import noise
from googlenet_edge.errors import DataError
from googlenet_edge.export import export
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.target import Device, Precision, Unit
from googlenet_edge.workspace import CHECKPOINT_FILE, split_seed

MOST_LOSS_POINTS, LEAST_AGREEMENT = 0.2, 99.4
BATCH = 32


@dataclass(frozen=True, slots=True)
class Row:
    """A quantized model against FP32. ``sqnr_db``: FP32 logits over the difference, both squared and summed."""

    model: str
    top1: float
    against_fp32: Comparison
    sqnr_db: float


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--run", type=Path, required=True, help=f"folder with {CHECKPOINT_FILE}")
    options.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*")
    options.add_argument("--calibration-images", type=at_least(1), default=500, help="how many of train/")
    options.add_argument("--threads", type=at_least(1), default=2, help="processor threads")
    given = options.parse_args()
    circumstances = read_circumstances()
    graph = export(read_checkpoint(given.run / CHECKPOINT_FILE))
    seed = split_seed(given.run)
    data = open_dataset(given.data, seed=seed)
    if data.val.class_names != graph.class_names:
        raise DataError(f"{given.data} has other classes than {given.run} was trained for; give its own data")
    sample = stratified_sample(data.train, given.calibration_images, seed=seed)
    rows = compare_all(graph, check_images(sample, preprocess=graph.preprocess), data.val, threads=given.threads)
    show(table_of(rows))
    conclude(Result(figures_of(rows[0]), circumstances, rows), given.out)


def compare_all(graph: InferenceGraph, calibration: Checked, val: ImageSet, *, threads: int) -> list[Row]:
    """A row for every model, that of `gnet-edge build` first."""
    pixels = np.stack(list(load_pixels(val, graph.preprocess)))
    plain = lower(graph, device=Device.CPU, precision=Precision.FP32, table=None)
    exact, fp32 = judge(graph, "fp32", plain, pixels, val, threads=threads, backend=backend_for(Device.CPU))
    rows = []
    for name, lowered, backend in quantized(graph, calibration):
        logits, found = judge(graph, name, lowered, pixels, val, threads=threads, backend=backend)
        rows.append(Row(name, found.accuracy.top1, compare(fp32, found), noise(exact, logits).sqnr_db))
    return rows


def quantized(graph: InferenceGraph, calibration: Checked) -> Iterator[tuple[str, Lowered, Backend]]:
    """The models with their names, and what runs them. One calibration serves all range methods."""
    here = backend_for(Device.CPU)
    with bar("calibrating by trial") as progress:
        built = calibrate(graph, calibration, progress=progress)
    with bar("calibrating") as progress:
        plain = calibrate(graph, calibration, method=RangeMethod.MINMAX, progress=progress)
    yield "gnet-edge, as built", lower(graph, device=Device.CPU, precision=Precision.INT8, table=built), here
    for name, unit in (("TensorRT", Unit.MAIN), ("a DLA", Unit.DLA)):
        lowered = lower(graph, device=Device.AGX_ORIN, precision=Precision.INT8, table=built, unit=unit)
        yield f"gnet-edge, as built for {name}, simulated", lowered, SIMULATION
    for method in RangeMethod:
        table = plain.with_method(method)
        yield f"gnet-edge, {method.value}", lower(graph, device=Device.CPU, precision=Precision.INT8, table=table), here
    yield "ONNX Runtime, min/max", Lowered(quantized_by_onnxruntime(graph, calibration.images)), here


def judge(
    graph: InferenceGraph,
    name: str,
    lowered: Lowered,
    pixels: NDArray[np.uint8],
    images: ImageSet,
    *,
    threads: int,
    backend: Backend,
) -> tuple[NDArray[np.float32], Evaluation]:
    """Logits float32 ``(n, classes)`` for pixels ``(n, crop, crop, 3)``, and what they say about the images."""
    started, parts = time.perf_counter(), []
    with open_lowered(graph, lowered, backend=backend, threads=threads) as predictor, bar(name) as progress:
        for first in range(0, len(pixels), BATCH):
            parts.append(predictor.run(pixels[first : first + BATCH]))
            progress(first + BATCH, len(pixels))
    logits = np.concatenate(parts)
    best, labels = ranking(logits, 5), np.array(images.labels, np.int64)
    in_top5 = (best == labels[:, None]).any(axis=1)
    seconds = time.perf_counter() - started
    top1 = best[:, 0].astype(np.int64)
    return logits, Evaluation(images.class_names, labels, top1, in_top5, seconds, backend.name.value)


def table_of(rows: list[Row]) -> str:
    """The comparison as Markdown."""
    fp32 = rows[0].against_fp32.reference
    cells = [("FP32", f"{fp32.top1:.2%}", "–", "–", "–", "–")]
    for row in rows:
        found, interval = row.against_fp32, row.against_fp32.top1_change_interval
        change = f"{found.top1_change_points:+.2f} ({interval.low:+.2f}…{interval.high:+.2f})"
        numbers = (f"{found.mcnemar_p:.2g}", f"{found.agreement:.2%}", f"{row.sqnr_db:.1f} dB")
        cells.append((row.model, f"{row.top1:.2%}", change, *numbers))
    head = ("model", "top-1", "change, points (95 % interval)", "McNemar's p", "agreement", "logit SQNR")
    return f"{fp32.images} images\n\n{markdown(head, cells)}\n"


def figures_of(row: Row) -> tuple[Figure, ...]:
    """What is asked of a built model, on CIFAR-10."""
    found, interval = row.against_fp32, row.against_fp32.top1_change_interval
    detail = f"95 % interval {interval.low:+.2f}…{interval.high:+.2f}, McNemar's p {found.mcnemar_p:.2g}"
    return (
        Figure(
            f"change of top-1, {row.model}", found.top1_change_points, "points", least=-MOST_LOSS_POINTS, detail=detail
        ),
        Figure(f"agreement with FP32, {row.model}", 100 * found.agreement, "%", least=LEAST_AGREEMENT),
    )


if __name__ == "__main__":
    run(main)
