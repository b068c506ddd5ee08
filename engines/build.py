"""From a checkpoint to a bundle: export, calibrate, lower, evaluate, write. What is there already is not made again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.calibrate import calibrate, table_at
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, write_table
from googlenet_edge.checkpoint import Checkpoint, read_checkpoint
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
from googlenet_edge.engines.auto import Candidate, Timed, choose, time_engines
from googlenet_edge.engines.bundle import Bundle, EngineTrial, Lineage, Manifest, Verdict, check_place, write_bundle
from googlenet_edge.engines.evaluate import evaluate
from googlenet_edge.engines.golden import Golden
from googlenet_edge.engines.lowering import Lowered, lower
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import Backend, backend_for, backends_for
from googlenet_edge.errors import AccuracyError, GraphError
from googlenet_edge.export import DEFAULT_OPSET, check_parity, export
from googlenet_edge.files import sha256_bytes, to_json
from googlenet_edge.graph import InferenceGraph, read_graph, write_graph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineChoice, EngineName, Precision
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

    ``max_drop_points``: the largest loss of top-1 against FP32, in percentage points. ``threads`` work at the build;
    engines that are timed against each other get ``timed_threads``, as many as the bundle will be opened with.
    """

    checkpoint: Path
    out: Path
    precision: Precision
    calibration: CalibrationRequest
    device: Device = Device.CPU
    max_drop_points: float = 1.0
    threads: int = 1
    engine: EngineChoice = EngineChoice.ONNXRUNTIME
    timed_threads: int = 1


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The bundle that was built, with its manifest; ``reused`` names the files that were there already."""

    bundle: str
    manifest: Manifest
    reused: tuple[str, ...]


def build(request: BuildRequest, *, bars: Bars) -> BuildReport:
    """Builds a bundle, and everything on the way to it that is missing beside the checkpoint.

    Raises:
        EdgeError: of the step that failed; what was there before is still there.
        AccuracyError: the lowered model loses more than allowed; no bundle is written.
    """
    _check_possible(request)
    steps, calibration = _Steps(bars), request.calibration
    checkpoint = read_checkpoint(request.checkpoint)
    dataset = open_dataset(calibration.data, seed=calibration.seed)
    val = steps.checked("validation", dataset.val, checkpoint.info.preprocess, calibration)
    graph = _graph(checkpoint, request.checkpoint.with_name(GRAPH_FILE), val.images, steps)
    table = None
    if request.precision is Precision.INT8:
        table = _table(graph, request.checkpoint.with_name(TABLE_FILE), dataset.train, calibration, steps)
    with steps.step("lowering"):
        lowered = lower(graph, device=request.device, precision=request.precision, table=table)
    judged = _judged(graph, lowered, val.images, request, steps)
    manifest = Manifest(
        precision=request.precision,
        device=request.device,
        preprocess=graph.preprocess,
        lineage=Lineage(
            checkpoint=checkpoint.sha256,
            graph=graph.sha256,
            calibration=sha256_bytes(to_json(table)) if table else None,
            dataset=val.sha256,
        ),
        accuracy=judged.accuracy,
        against_fp32=judged.against_fp32,
        weight_bits=lowered.weight_bits,
        notes=(*lowered.notes, *judged.notes, *_doubts(checkpoint, val)),
        engine=judged.engine,
        engine_trials=judged.trials,
        fp32_model_bytes=len(graph.bytes),
        build_seconds={name: round(seconds, 3) for name, seconds in steps.seconds.items()},
    )
    written = write_bundle(request.out, Bundle(manifest, graph.class_names, lowered.model, judged.golden))
    return BuildReport(str(request.out), written, tuple(steps.reused))


def _doubts(checkpoint: Checkpoint, val: Checked) -> tuple[str, ...]:
    """What makes the accuracy doubtful."""
    record = checkpoint.info.training
    if record is None or record.val_images_sha256 == val.sha256:
        return ()
    return ("the validation images are not those of the training; the network may have been trained on some of them",)


def export_checked(checkpoint: Path, data: Path, out: Path, *, opset: int, seed: int) -> float:
    """Exports a checkpoint and checks the graph on validation images before it is written.

    Returns the largest difference from PyTorch's logits, relative to the largest logit.

    Raises:
        CheckpointError, DataError, GraphError, OutputError: see there.
    """
    source = read_checkpoint(checkpoint)
    graph, difference = _exported(source, open_dataset(data, seed=seed).val, opset=opset)
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

    def evaluated(self, what: str, predictor: Predictor, images: ImageSet) -> Evaluation:
        with self.step(f"evaluating {what}") as progress:
            return evaluate(predictor, images, progress=progress)


def _check_possible(request: BuildRequest) -> None:
    """Refuses what this version cannot run, and what cannot be written, before any work."""
    _backends(request)[0].load()
    check_place(request.out)


def _graph(checkpoint: Checkpoint, path: Path, val: ImageSet, steps: _Steps) -> InferenceGraph:
    """The graph that is there, where it is this checkpoint's; else a new one that passed its parity check."""
    if path.exists():
        try:
            graph = read_graph(path)
        except GraphError as problem:
            _log.warning("%s; exporting it again", problem)
        else:
            if _is_export_of(checkpoint, graph, val):
                steps.reused.append(str(path))
                return graph
    with steps.step("exporting"):
        graph, _ = _exported(checkpoint, val, opset=DEFAULT_OPSET)
        write_graph(path, graph)
    return graph


def _is_export_of(checkpoint: Checkpoint, graph: InferenceGraph, images: ImageSet) -> bool:
    """Whether a graph is this version's export of the checkpoint, and still computes what PyTorch does."""
    made_by = (graph.parent_sha256, graph.model.producer_version)
    if made_by != (checkpoint.sha256, __version__):
        return False
    try:
        check_parity(graph, checkpoint, [_parity_batch(graph, images)])
    except GraphError as problem:
        _log.warning("%s; exporting it again", problem)
        return False
    return True


def _parity_batch(graph: InferenceGraph, images: ImageSet) -> NDArray[np.float32]:
    return graph.preprocess.normalize(_first_pixels(images, graph.preprocess, _PARITY_IMAGES))


def _exported(checkpoint: Checkpoint, images: ImageSet, *, opset: int) -> tuple[InferenceGraph, float]:
    graph = export(checkpoint, opset=opset)
    return graph, check_parity(graph, checkpoint, [_parity_batch(graph, images)])


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


@dataclass(frozen=True, slots=True)
class _Judged:
    """The engine that is taken, what the lowered model computes on it, and how often it is right."""

    engine: EngineName
    golden: Golden
    accuracy: Accuracy
    against_fp32: Comparison | None
    trials: tuple[EngineTrial, ...]
    notes: tuple[str, ...]


def _backends(request: BuildRequest) -> tuple[Backend, ...]:
    """Those that may be taken, the default first. Raises `EngineError` where there is none of that name."""
    if request.engine is EngineChoice.AUTO:
        return backends_for(request.device)
    return (backend_for(request.device, EngineName(request.engine.value)),)


def _judged(graph: InferenceGraph, lowered: Lowered, images: ImageSet, request: BuildRequest, steps: _Steps) -> _Judged:
    """Runs the lowered model on every engine that may be taken, compares each with FP32, and takes one."""
    pixels = _first_pixels(images, graph.preprocess, _GOLDEN_IMAGES)
    timed, notes = _timed(graph, lowered, pixels, request, steps)
    backends = tuple(one.backend for one in timed) or _backends(request)
    answers = []
    for backend in backends:
        with _open(backend, graph, lowered, request) as predictor:
            what = f"{request.precision.value} on {backend.name.value}"
            answers.append((Golden(pixels, predictor.run(pixels)), steps.evaluated(what, predictor, images)))
    reference = answers[0][1]
    if request.precision is not Precision.FP32:
        fp32 = lower(graph, device=request.device, precision=Precision.FP32, table=None)
        with _open(backend_for(request.device), graph, fp32, request) as predictor:
            reference = steps.evaluated(Precision.FP32.value, predictor, images)
    against_fp32 = [compare(reference, evaluation) for _, evaluation in answers]
    trials = choose(timed, against_fp32, max_drop_points=request.max_drop_points) if timed else ()
    taken = next((i for i, trial in enumerate(trials) if trial.verdict is Verdict.TAKEN), 0)
    _check_drop(against_fp32[taken], request)
    golden, evaluation = answers[taken]
    comparison = None if request.precision is Precision.FP32 else against_fp32[taken]
    return _Judged(backends[taken].name, golden, evaluation.accuracy, comparison, trials, notes)


def _timed(
    graph: InferenceGraph, lowered: Lowered, pixels: NDArray[np.uint8], request: BuildRequest, steps: _Steps
) -> tuple[list[Timed], tuple[str, ...]]:
    """Every engine that can be had with its latency, and what is to be said of the others; none where one is named."""
    if request.engine is not EngineChoice.AUTO:
        return [], ()
    options = EngineOptions(request.timed_threads, lowered.weight_bits)
    candidates = [Candidate(backend, lowered.model) for backend in _backends(request)]
    with steps.step("timing engines") as progress:
        return time_engines(candidates, options=options, pixels=pixels[:1], progress=progress)


def _open(backend: Backend, graph: InferenceGraph, lowered: Lowered, request: BuildRequest) -> Predictor:
    options = EngineOptions(streams=request.threads, weight_bits=lowered.weight_bits)
    engine = backend.open(lowered.model, options)
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
