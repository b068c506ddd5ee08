"""From a checkpoint or an ONNX file to a bundle: what is there already is not made again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.calibrate import calibrate, table_at
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, write_table
from googlenet_edge.dataset import (
    Checked,
    ImageSet,
    Progress,
    WhenDamaged,
    check_images,
    load_pixels,
    open_dataset,
    refuse_damaged,
    stratified_sample,
)
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.bundle import Bundle, Lineage, Manifest, check_place, write_bundle
from googlenet_edge.engines.evaluate import check_classes, evaluate
from googlenet_edge.engines.golden import Golden
from googlenet_edge.engines.lowering import Lowered, lower
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.engines.source import CheckpointSource, Origin, Source
from googlenet_edge.errors import AccuracyError, GraphError
from googlenet_edge.files import sha256_bytes, to_json
from googlenet_edge.graph import InferenceGraph, read_graph, write_graph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, Precision
from googlenet_edge.workspace import GRAPH_FILE, TABLE_FILE

Bars = Callable[[str], AbstractContextManager[Progress]]
"""Shows a step by its name; what it gives is told (done, total)."""

_GOLDEN_IMAGES = 2
_PARITY_IMAGES = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """Which images to calibrate on, and how. ``seed`` splits ``data``, where it is one folder, and draws the images.

    ``when_damaged``: `dataset.refuse_damaged` or `dataset.without_damaged`.
    """

    data: Path
    images: int = 500
    method: RangeMethod = RangeMethod.MINMAX
    seed: int = 0
    when_damaged: WhenDamaged = refuse_damaged


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build from what. Accuracy is measured on the validation images of ``calibration.data``.

    ``max_drop_points``: the largest loss of top-1 against FP32, in percentage points.
    """

    source: Source
    out: Path
    precision: Precision
    calibration: CalibrationRequest
    device: Device = Device.CPU
    max_drop_points: float = 1.0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The bundle that was built, with its manifest; ``reused`` names the files that were there already."""

    bundle: str
    manifest: Manifest
    reused: tuple[str, ...]


def build(request: BuildRequest, *, bars: Bars) -> BuildReport:
    """Builds a bundle, and everything on the way to it that is missing in the folder of the source.

    Raises:
        EdgeError: of the step that failed; what was there before is still there.
        AccuracyError: the lowered model loses more than allowed; no bundle is written.
    """
    _check_possible(request)
    steps, calibration, folder = _Steps(bars), request.calibration, request.source.folder
    dataset = open_dataset(calibration.data, seed=calibration.seed)
    origin = request.source.open(dataset.val.class_names)
    check_classes(origin.class_names, dataset.val)
    val = steps.checked("validation", dataset.val, origin.preprocess, calibration)
    graph = _graph(origin, folder / GRAPH_FILE, val.images, steps)
    table = None
    if request.precision is Precision.INT8:
        table = _table(graph, folder / TABLE_FILE, dataset.train, calibration, steps)
    with steps.step("lowering"):
        lowered = lower(graph, device=request.device, precision=request.precision, table=table)
    golden, accuracy, against_fp32 = _judged(graph, lowered, val.images, request, steps)
    manifest = Manifest(
        precision=request.precision,
        device=request.device,
        preprocess=graph.preprocess,
        lineage=Lineage(
            checkpoint=origin.checkpoint,
            graph=graph.sha256,
            calibration=sha256_bytes(to_json(table)) if table else None,
            dataset=val.sha256,
        ),
        accuracy=accuracy,
        against_fp32=against_fp32,
        weight_bits=lowered.weight_bits,
        notes=(*lowered.notes, *origin.doubts(val)),
        fp32_model_bytes=len(graph.bytes),
        build_seconds={name: round(seconds, 3) for name, seconds in steps.seconds.items()},
    )
    written = write_bundle(request.out, Bundle(manifest, graph.class_names, lowered.model, golden))
    return BuildReport(str(request.out), written, tuple(steps.reused))


def export_checked(checkpoint: Path, data: Path, out: Path, *, opset: int, seed: int) -> float:
    """Exports a checkpoint and checks the graph on validation images before it is written.

    Returns the largest difference from PyTorch's logits, relative to the largest logit.

    Raises:
        CheckpointError, DataError, GraphError, OutputError: see there.
    """
    images = open_dataset(data, seed=seed).val
    graph, difference = _made(CheckpointSource(checkpoint, opset).open(images.class_names), images)
    write_graph(out, graph)
    return difference


def calibrate_file(graph: Path, out: Path, request: CalibrationRequest, *, bars: Bars) -> CalibrationTable:
    """Calibrates a graph and writes the table.

    Raises:
        GraphError, DataError, CalibrationError, OutputError: see there.
    """
    source = read_graph(graph)
    train = open_dataset(request.data, seed=request.seed).train
    steps = _Steps(bars)
    table = steps.calibrated(source, _calibration_images(train, source.preprocess, request, steps), request.method)
    write_table(out, table)
    return table


@dataclass
class _Steps:
    """Shows, times and remembers the steps of a build."""

    bars: Bars
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        """Shows and times a step."""
        started = time.perf_counter()
        with self.bars(name) as progress:
            yield progress
        self.seconds[name] = time.perf_counter() - started

    def checked(self, name: str, images: ImageSet, preprocess: Preprocess, request: CalibrationRequest) -> Checked:
        """The images, each decoded once; damaged ones refused or left out as the request says."""
        with self.step(f"checking {name} images") as progress:
            checked = check_images(images, preprocess=preprocess, progress=progress)
        request.when_damaged(checked)
        return checked

    def calibrated(self, graph: InferenceGraph, images: Checked, method: RangeMethod) -> CalibrationTable:
        with self.step("calibrating") as progress:
            return calibrate(graph, images, method=method, progress=progress)

    def evaluated(self, precision: Precision, predictor: Predictor, images: ImageSet) -> Evaluation:
        with self.step(f"evaluating {precision.value}") as progress:
            return evaluate(predictor, images, progress=progress)


def _check_possible(request: BuildRequest) -> None:
    """Refuses what this version cannot run, and what cannot be written, before any work."""
    backend_for(request.device)
    check_place(request.out)


def _graph(origin: Origin, path: Path, val: ImageSet, steps: _Steps) -> InferenceGraph:
    """The graph that is there, where it was made from the origin and passes its check; else a new one that does."""
    if path.exists():
        try:
            graph = read_graph(path)
            if origin.made(graph):
                origin.check(graph, _first_pixels(val, graph.preprocess, _PARITY_IMAGES))
                steps.reused.append(str(path))
                return graph
        except GraphError as problem:
            _log.warning("%s; making it again", problem)
    with steps.step("making the graph"):
        graph, _ = _made(origin, val)
        write_graph(path, graph)
    return graph


def _made(origin: Origin, images: ImageSet) -> tuple[InferenceGraph, float]:
    """A new graph, and how far it is from its origin on the first images."""
    graph = origin.make()
    return graph, origin.check(graph, _first_pixels(images, graph.preprocess, _PARITY_IMAGES))


def _table(
    graph: InferenceGraph, path: Path, train: ImageSet, request: CalibrationRequest, steps: _Steps
) -> CalibrationTable:
    """The table that is there, where it fits; else a new one."""
    images = _calibration_images(train, graph.preprocess, request, steps)
    if table := table_at(path, graph, images, method=request.method):
        steps.reused.append(str(path))
        return table
    table = steps.calibrated(graph, images, request.method)
    write_table(path, table)
    return table


def _calibration_images(train: ImageSet, preprocess: Preprocess, request: CalibrationRequest, steps: _Steps) -> Checked:
    sample = stratified_sample(train, request.images, seed=request.seed)
    return steps.checked("calibration", sample, preprocess, request)


def _judged(
    graph: InferenceGraph, lowered: Lowered, images: ImageSet, request: BuildRequest, steps: _Steps
) -> tuple[Golden, Accuracy, Comparison | None]:
    """What the lowered model computes, how often it is right, and how that compares with FP32."""
    with _open(graph, lowered, request) as predictor:
        pixels = _first_pixels(images, graph.preprocess, _GOLDEN_IMAGES)
        golden = Golden(pixels, predictor.run(pixels))
        found = steps.evaluated(request.precision, predictor, images)
    if request.precision is Precision.FP32:
        return golden, found.accuracy, None
    with _open(graph, Lowered(graph.bytes), request) as predictor:
        comparison = compare(steps.evaluated(Precision.FP32, predictor, images), found)
    _check_drop(comparison, request)
    return golden, found.accuracy, comparison


def _open(graph: InferenceGraph, lowered: Lowered, request: BuildRequest) -> Predictor:
    options = EngineOptions(threads=request.threads, weight_bits=lowered.weight_bits)
    engine = backend_for(request.device).open(lowered.model, options)
    return Predictor(engine, labels=graph.class_names, preprocess=graph.preprocess)


def _first_pixels(images: ImageSet, preprocess: Preprocess, count: int) -> NDArray[np.uint8]:
    return np.stack(list(load_pixels(images.take(list(range(min(count, len(images))))), preprocess)))


def _check_drop(comparison: Comparison, request: BuildRequest) -> None:
    if -comparison.top1_change_points <= request.max_drop_points:
        return
    low, high = comparison.top1_change_interval.low, comparison.top1_change_interval.high
    raise AccuracyError(
        f"{request.precision.value} changes top-1 by {comparison.top1_change_points:+.2f} points (95 % interval"
        f" {low:+.2f}…{high:+.2f}), at most -{request.max_drop_points:g} is allowed; no bundle was written."
        " Calibrate on more images or with another --method, or allow more with --max-drop"
    )
