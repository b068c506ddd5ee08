"""The memory and the time that calibration takes, and whether its table depends on the order of the images.

`gnet-edge calibrate`'s own function runs in a fresh process on a made network and generated images; then the same
images are given in a shuffled order, and the two tables are compared byte for byte.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import Figure, Result, at_least, conclude, parser, run, show

from googlenet_edge.calibration.calibrate import calibrate
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, read_table
from googlenet_edge.console import bar
from googlenet_edge.dataset import ImageSet, check_images
from googlenet_edge.engines.build import CalibrationRequest, calibrate_file
from googlenet_edge.engines.circumstances import peak_memory_mb, read_circumstances
from googlenet_edge.files import sha256_bytes, to_json
from googlenet_edge.graph import read_graph, write_graph

CLASSES = 1000
MOST_MB = 1500
SEED = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process of its own needed, from reading the graph to having written the table."""

    seconds: float
    peak_memory_mb: int | None


@dataclass(frozen=True, slots=True)
class Details:
    """What was calibrated, and the hashes of both tables."""

    images: int
    size: int
    method: RangeMethod | None
    cost: Cost
    table_sha256: str
    shuffled_table_sha256: str


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=at_least(1), default=500, help="how many")
    options.add_argument("--size", type=at_least(32), default=224, help="side of the network's input, pixels")
    options.add_argument("--method", type=RangeMethod, help="minmax, percentile, …; by default what trials choose")
    given = options.parse_args()
    from made import generated_images, made_graph  # noqa: PLC0415  (torch, which the fresh process does not need)

    circumstances = read_circumstances()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_graph(folder / "googlenet.onnx", made_graph(classes=CLASSES, size=given.size))
        images = generated_images(folder / "images", count=given.images, size=given.size)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            cost = fresh.submit(calibrate_here, folder, given.images, given.method).result()
        table = read_table(folder / "calibration.json")
        shuffled = calibrate_shuffled(folder, images, given.method)
    hashes = [sha256_bytes(to_json(each)) for each in (table, shuffled)]
    changed = len(set(hashes)) - 1
    figures = (
        Figure("peak memory", cost.peak_memory_mb or float("nan"), "MB", most=MOST_MB, detail="VmHWM"),
        Figure("time", cost.seconds, "s", detail=f"{given.images / cost.seconds:.1f} images/s"),
        Figure("tables that another order of images changes", changed, most=0, detail="1 tried, compared by bytes"),
    )
    how = f"by {given.method.value}" if given.method else "chosen by trial"
    show(f"{table.image_count} images at {given.size}×{given.size}, {how}")
    conclude(Result(figures, circumstances, Details(len(images), given.size, given.method, cost, *hashes)), given.out)


def calibrate_here(folder: Path, images: int, method: RangeMethod | None) -> Cost:
    """Calibrates as the command does, in a process that did nothing else."""
    request = CalibrationRequest(folder / "images", images=images, method=method, seed=SEED)
    started = time.perf_counter()
    calibrate_file(folder / "googlenet.onnx", folder / "calibration.json", request, bars=bar)
    return Cost(time.perf_counter() - started, peak_memory_mb())


def calibrate_shuffled(folder: Path, images: ImageSet, method: RangeMethod | None) -> CalibrationTable:
    """The table from the same images in another order."""
    graph = read_graph(folder / "googlenet.onnx")
    shuffled = images.take(np.random.default_rng(SEED).permutation(len(images)).tolist())
    with bar("calibrating in another order") as progress:
        return calibrate(graph, check_images(shuffled, preprocess=graph.preprocess), method=method, progress=progress)


if __name__ == "__main__":
    run(main)
