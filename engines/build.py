"""From a checkpoint or an ONNX file to a bundle: what is there already is not made again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.calibrate import FEWEST_TO_CHOOSE, calibrate, table_at, times_as_far, unlike
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, refuse_another_s_table
from googlenet_edge.dataset import (
    KEPT_BYTES,
    Bars,
    Checked,
    ImageSet,
    Progress,
    WhenDamaged,
    check_images,
    load_pixels,
    open_dataset,
    refuse_damaged,
    sample_beside,
    stratified_sample,
)
from googlenet_edge.engines.bundle import Bundle, Lineage, Manifest, check_place, read_manifest, write_bundle
from googlenet_edge.engines.devices import profile_of, refuse_impossible
from googlenet_edge.engines.evaluate import check_classes
from googlenet_edge.engines.recovery import Judge, Judged, first_pixels, within_budget
from googlenet_edge.engines.registry import Backend, backend_for, backends_for, default_to_build_with
from googlenet_edge.engines.sensitivity import DEFAULT_IMAGES, Probe, Sensitivity, rank_layers, try_layers
from googlenet_edge.engines.source import Origin, Source
from googlenet_edge.errors import BundleError, GraphError, OutputError, placed_by
from googlenet_edge.files import real_path, sha256_bytes, to_json, write_json
from googlenet_edge.graph import InferenceGraph, read_graph, refuse_another_s, write_graph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineChoice, EngineName, Precision, Unit
from googlenet_edge.workspace import GRAPH_FILE, TABLE_FILE

_PARITY_IMAGES = 8
_DOMAIN_IMAGES = 32
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """Which images to calibrate on, and how. ``seed`` splits ``data``, where it is one folder, and draws the images.

    ``method`` is the only range method to take; by default what loses least is chosen by trial.
    ``when_damaged``: `dataset.refuse_damaged` or `dataset.without_damaged`.
    """

    data: Path
    images: int = 500
    method: RangeMethod | None = None
    seed: int = 0
    when_damaged: WhenDamaged = refuse_damaged


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build from what. Accuracy is measured on the validation images of ``calibration.data``.

    ``max_drop_points``: the largest loss of top-1 against FP32, in percentage points. INT8 leaves layers in float where
    it must to keep it. ``threads`` work at the build; engines and rewrites that are timed against each other get
    ``timed_threads``, as many as the bundle will be opened with.
    """

    source: Source
    out: Path
    precision: Precision
    calibration: CalibrationRequest
    device: Device = Device.CPU
    max_drop_points: float = 1.0
    threads: int = 1
    engine: EngineChoice | None = None
    timed_threads: int = 1
    unit: Unit = Unit.MAIN


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The bundle that was built, with its manifest; ``reused`` names the files that were there already."""

    bundle: str
    manifest: Manifest
    reused: tuple[str, ...]


def network_of(path: Path) -> str | None:
    """The hash of the checkpoint, or else of the graph, that the bundle at a path was built from, if one is there."""
    with suppress(BundleError):
        lineage = read_manifest(path).lineage
        return lineage.checkpoint or lineage.graph
    return None


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
    table = None
    with placed_by(request.source.elsewhere):
        graph = _graph(origin, folder / GRAPH_FILE, val.images, steps)
        if request.precision is Precision.INT8:
            table = _table(graph, folder / TABLE_FILE, dataset.train, calibration, steps)
    judge = Judge(
        graph,
        table,
        request.device,
        request.precision,
        val.images,
        _backends(request),
        bars=steps.step,
        threads=request.threads,
        timed_threads=request.timed_threads,
        max_drop_points=request.max_drop_points,
        unit=request.unit,
    )
    held_out = partial(_held_out, dataset.train, graph.preprocess, calibration, steps)
    chosen = within_budget(judge, held_out=held_out)
    lineage = Lineage(
        checkpoint=origin.checkpoint,
        graph=graph.sha256,
        calibration=sha256_bytes(to_json(table)) if table else None,
        dataset=val.sha256,
    )
    notes = (*_of_table(graph, table, val.images), *origin.doubts(val))
    manifest = _manifest(judge, chosen, lineage=lineage, notes=notes, seconds=steps.seconds)
    lowered = chosen.lowered
    bundle = Bundle(
        manifest, graph.class_names, lowered.model, chosen.golden, calibration_cache=lowered.calibration_cache
    )
    written = write_bundle(request.out, bundle)
    return BuildReport(str(request.out), written, tuple(steps.reused))


def _manifest(
    judge: Judge, chosen: Judged, *, lineage: Lineage, notes: Sequence[str], seconds: Mapping[str, float]
) -> Manifest:
    """What the bundle says of itself."""
    return Manifest(
        precision=judge.precision,
        device=judge.device,
        unit=judge.unit,
        preprocess=judge.graph.preprocess,
        lineage=lineage,
        accuracy=chosen.accuracy,
        against_fp32=chosen.against_fp32,
        weight_bits=chosen.lowered.weight_bits,
        float_layers=chosen.float_layers,
        notes=(*chosen.lowered.notes, *chosen.notes, *notes),
        rewrites=chosen.lowered.rewrites,
        engine=chosen.engine,
        engine_trials=chosen.trials,
        fp32_model_bytes=len(judge.graph.bytes),
        build_seconds={name: round(took, 3) for name, took in seconds.items()},
    )


_TOO_FEW = (
    f"calibrated on fewer than {FEWEST_TO_CHOOSE} images: nothing could be chosen on held-out ones, ranges are min/max;"
    " some hundred images give a better INT8"
)


def _of_table(graph: InferenceGraph, table: CalibrationTable | None, val: ImageSet) -> tuple[str, ...]:
    """What the calibration chose, and whether its images are unlike those of the validation."""
    if table is None:
        return ()
    some = load_pixels(val.take(range(0, len(val), -(-len(val) // _DOMAIN_IMAGES))), graph.preprocess)
    doubt = unlike(times_as_far(graph, table, (graph.preprocess.normalize(pixels[None]) for pixels in some)))
    few = None if table.choice or table.wished else _TOO_FEW
    return tuple(str(each) for each in (table.choice, few, doubt) if each)


def export_checked(source: Source, out: Path, request: CalibrationRequest) -> float:
    """Makes the graph of a source and checks it on validation images before it is written.

    Returns the largest difference from the logits of the source, relative to the largest logit.

    Raises:
        CheckpointError, DataError, GraphError, OutputError: see there.
    """
    images = open_dataset(request.data, seed=request.seed).val
    origin = source.open(images.class_names)
    some = stratified_sample(images, _PARITY_IMAGES, seed=request.seed)
    checked = request.when_damaged(check_images(some, preprocess=origin.preprocess))
    graph, difference = _made(origin, checked)
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
    write_json(out, table)
    return table


def calibration_pixels(request: CalibrationRequest, preprocess: Preprocess, *, bars: Bars) -> NDArray[np.uint8]:
    """The images that a request names, for a calibrator of another make: uint8 ``(N, crop, crop, 3)``.

    Raises:
        DataError: see `open_dataset` and ``request.when_damaged``.
    """
    train = open_dataset(request.data, seed=request.seed).train
    checked = _calibration_images(train, preprocess, request, _Steps(bars))
    return np.stack(list(checked.pixels(checked.images, preprocess)))


@dataclass(frozen=True, slots=True)
class SensitivityRequest:
    """Which network's layers to measure, and on how many training images beside those of the calibration."""

    source: Source
    calibration: CalibrationRequest
    images: int = DEFAULT_IMAGES
    threads: int = 1


def sensitivity(request: SensitivityRequest, *, bars: Bars) -> Sensitivity:
    """What each layer costs in INT8. Makes the graph and the table in the source's folder where they are missing.

    Raises:
        EdgeError: of the step that failed.
    """
    steps, calibration, folder = _Steps(bars), request.calibration, request.source.folder
    _check_folder(request.source, GRAPH_FILE, TABLE_FILE)
    dataset = open_dataset(calibration.data, seed=calibration.seed)
    origin = request.source.open(dataset.train.class_names)
    images = _held_out(dataset.train, origin.preprocess, calibration, steps, count=request.images)
    with placed_by(request.source.elsewhere):
        graph = _graph(origin, folder / GRAPH_FILE, images, steps)
        table = _table(graph, folder / TABLE_FILE, dataset.train, calibration, steps)
    probe = Probe.of(graph, images, threads=request.threads)
    with steps.step("ranking layers") as progress:
        ranked = rank_layers(probe, table, progress=progress)
    with steps.step("leaving layers in float") as progress:
        return try_layers(probe, table, ranked, progress=progress)


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
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def checked(
        self, name: str, images: ImageSet, preprocess: Preprocess, request: CalibrationRequest, *, kept_bytes: int = 0
    ) -> Checked:
        """The images, each decoded once; damaged ones refused or left out as the request says."""
        with self.step(f"checking {name} images") as progress:
            checked = check_images(images, preprocess=preprocess, kept_bytes=kept_bytes, progress=progress)
        request.when_damaged(checked)
        return checked

    def calibrated(self, graph: InferenceGraph, images: Checked, method: RangeMethod | None) -> CalibrationTable:
        with self.step("calibrating") as progress:
            return calibrate(graph, images, method=method, progress=progress)


def _check_possible(request: BuildRequest) -> None:
    """Refuses what the device or this version cannot do, and what cannot be written, before any work."""
    refuse_impossible(profile_of(request.device), request.precision, request.unit)
    _backends(request)[0].load()
    folder, out = request.source.folder, request.out
    real = real_path(folder)
    if real_path(out) in (real, *real.parents):
        raise OutputError(f"{out} cannot be a bundle: {folder} is where the graph and its table go; give another --out")
    check_place(out)
    _check_folder(request.source, GRAPH_FILE, *([TABLE_FILE] if request.precision is Precision.INT8 else []))


def _check_folder(source: Source, *made: str) -> None:
    """Refuses a source whose folder lacks some of what is ``made`` there and cannot be written to."""
    folder = source.folder
    if not all((folder / name).exists() for name in made) and folder.exists() and not os.access(folder, os.W_OK):
        raise OutputError(
            f"{folder} cannot be written to, where the graph and the calibration table go; give {source.elsewhere}"
        )


def _graph(origin: Origin, path: Path, val: ImageSet, steps: _Steps) -> InferenceGraph:
    """The graph that is there, where it was made from the origin and passes its check; else a new one that does."""
    if path.exists():
        try:
            graph = read_graph(path)
            if origin.made(graph):
                origin.check(graph, first_pixels(val, graph.preprocess, _PARITY_IMAGES))
                steps.reused.append(str(path))
                return graph
        except GraphError as problem:
            refuse_another_s(path)
            _log.warning("%s; making it again", problem)
    with steps.step("making the graph"):
        graph, _ = _made(origin, val)
        write_graph(path, graph)
    return graph


def _made(origin: Origin, images: ImageSet) -> tuple[InferenceGraph, float]:
    """A new graph, and how far it is from its origin on the first images."""
    graph = origin.make()
    return graph, origin.check(graph, first_pixels(images, graph.preprocess, _PARITY_IMAGES))


def _table(
    graph: InferenceGraph, path: Path, train: ImageSet, request: CalibrationRequest, steps: _Steps
) -> CalibrationTable:
    """The table that is there, where it fits; else a new one."""
    images = _calibration_images(train, graph.preprocess, request, steps)
    if table := table_at(path, graph, images, method=request.method):
        steps.reused.append(str(path))
        return table
    refuse_another_s_table(path)
    table = steps.calibrated(graph, images, request.method)
    write_json(path, table)
    return table


def _calibration_images(train: ImageSet, preprocess: Preprocess, request: CalibrationRequest, steps: _Steps) -> Checked:
    sample = stratified_sample(train, request.images, seed=request.seed)
    return steps.checked("calibration", sample, preprocess, request, kept_bytes=KEPT_BYTES)


def _held_out(
    train: ImageSet, preprocess: Preprocess, request: CalibrationRequest, steps: _Steps, *, count: int = DEFAULT_IMAGES
) -> ImageSet:
    """Training images that are not calibrated on, where there are enough of them."""
    calibrated = stratified_sample(train, request.images, seed=request.seed)
    sample = sample_beside(train, calibrated, count, seed=request.seed)
    return steps.checked("held-out", sample, preprocess, request).images


def _backends(request: BuildRequest) -> tuple[Backend, ...]:
    """Those that may be taken, the default first. Raises `EngineError` where there is none of that name."""
    if request.engine is None or profile_of(request.device).has_tensorrt:
        return (default_to_build_with(request.device),)
    if request.engine is EngineChoice.AUTO:
        return backends_for(request.device)
    return (backend_for(request.device, EngineName(request.engine.value)),)
