"""From a checkpoint to one that loses less in INT8: calibrate, train on the grids, calibrate again, and compare.

The network learns to answer, on integers, as it did in float: its teacher is the network before quantization. The
result is an ordinary checkpoint, from which export, calibration and lowering go on as from any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from googlenet_edge.calibration.calibrate import calibrate, table_at
from googlenet_edge.calibration.fake_quantization import FakeQuantized
from googlenet_edge.calibration.lower import prepared
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.calibration.weights import weight_range_for
from googlenet_edge.checkpoint import Checkpoint, build_model, read_checkpoint, write_checkpoint
from googlenet_edge.dataset import KEPT_BYTES, Bars, check_images, open_dataset, stratified_sample
from googlenet_edge.distil import DistilConfig, as_trained, distil
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.build import CalibrationRequest
from googlenet_edge.engines.checkpoint_source import images_for
from googlenet_edge.engines.recovery import evaluated
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.errors import AccuracyError
from googlenet_edge.export import export, unfolded
from googlenet_edge.files import check_writable
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.processor import read_processor
from googlenet_edge.reports import Observer
from googlenet_edge.target import Device, Precision
from googlenet_edge.training_loop import TrainingData
from googlenet_edge.workspace import TABLE_FILE


@dataclass(frozen=True, slots=True)
class FinetuneRequest:
    """Which checkpoint to fine-tune, how, and where the result goes.

    ``config`` has no mixed precision, which would round more coarsely than the grids do. ``calibration`` says which
    images to train and calibrate on; accuracy is measured on the validation images among them. ``threads`` are those of
    the evaluation, ``workers`` the processes that load images.
    """

    checkpoint: Path
    out: Path
    calibration: CalibrationRequest
    config: DistilConfig
    threads: int = 1
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Int8Accuracy:
    """The lowered graph's own accuracy, and against the float graph of the checkpoint that was fine-tuned."""

    accuracy: Accuracy
    against_fp32: Comparison


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """The new checkpoint, and what became of INT8: ``gain`` compares after with before."""

    checkpoint: str
    before: Int8Accuracy
    after: Int8Accuracy
    gain: Comparison


def finetune(
    request: FinetuneRequest, *, watch: Callable[[], AbstractContextManager[Observer]], bars: Bars
) -> FinetuneReport:
    """Fine-tunes for INT8 and writes the checkpoint, where at least as many validation images are right as before.

    Before and after, the graph is exported, calibrated and lowered as ``build`` does it, so the figures are those of
    the bundles. The table beside the checkpoint is used where it fits. Nothing but the checkpoint is written.

    Args:
        watch: shows the training itself; asked to stop, nothing is kept.

    Raises:
        EdgeError: of the step that failed.
        AccuracyError: fewer images are right than before.
    """
    check_writable(request.out)
    checkpoint = read_checkpoint(request.checkpoint)
    request = replace(request, config=as_trained(request.config, checkpoint.info))
    calibration = request.calibration
    data = images_for(
        checkpoint, calibration.data, seed=calibration.seed, when_damaged=calibration.when_damaged, bars=bars
    )
    train = open_dataset(calibration.data, seed=calibration.seed).train
    sample = stratified_sample(train, calibration.images, seed=calibration.seed)
    images = check_images(sample, preprocess=data.preprocess, kept_bytes=KEPT_BYTES)
    judged = partial(evaluated, images=data.val, backend=backend_for(Device.CPU), bars=bars, threads=request.threads)

    def calibrated(graph: InferenceGraph) -> CalibrationTable:
        with bars("calibrating") as progress:
            return calibrate(graph, images, method=calibration.method, progress=progress)

    graph = export(checkpoint)
    beside = request.checkpoint.with_name(TABLE_FILE)
    table = table_at(beside, graph, images, method=calibration.method) or calibrated(graph)
    fp32, before = judged(graph), judged(graph, precision=Precision.INT8, table=table)
    weight_range = weight_range_for(read_processor())
    student = FakeQuantized(prepared(graph, table, weight_range=weight_range), table.ranges, weight_range=weight_range)
    with watch() as observer:
        tuned = _trained(student, checkpoint, data, request, observer)
    tuned_graph = export(tuned)
    after = judged(tuned_graph, precision=Precision.INT8, table=calibrated(tuned_graph))
    gain = compare(before, after)
    _check_gain(gain)
    write_checkpoint(request.out, tuned)
    return FinetuneReport(str(request.out), _against(fp32, before), _against(fp32, after), gain)


def _trained(
    student: FakeQuantized, checkpoint: Checkpoint, data: TrainingData, request: FinetuneRequest, observer: Observer
) -> Checkpoint:
    """The checkpoint that follows the float logits of the one it comes from; auxiliary heads stay as they are."""
    started = time.monotonic()
    distil(student, build_model(checkpoint), data, request.config, observer=observer, workers=request.workers)
    tuned = Checkpoint(checkpoint.info, unfolded(student.weights(), checkpoint))
    accuracy = data.evaluated(build_model(tuned))
    record = data.record(request.config, accuracy, time.monotonic() - started)
    return replace(tuned, info=replace(checkpoint.info, training=record))


def _against(fp32: Evaluation, int8: Evaluation) -> Int8Accuracy:
    return Int8Accuracy(int8.accuracy, compare(fp32, int8))


def _check_gain(gain: Comparison) -> None:
    if gain.top1_change_points >= 0:
        return
    raise AccuracyError(
        f"fine-tuning makes int8 worse: {gain}; nothing was written. Build the checkpoint as it is, or try another"
        " --learning-rate or more --epochs"
    )
