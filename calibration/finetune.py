"""Quantization-aware training: the network learns to answer, on integers, as it did in float.

It starts where calibration ends, from the calibrated graph and its ranges, and its teacher is the network itself before
quantization. The result is an ordinary checkpoint, from which export, calibration and lowering go on as from any other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from googlenet_edge.calibration.fake_quantization import FakeQuantized
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.checkpoint import Checkpoint, TrainingRecord, build_model
from googlenet_edge.distil import DistilConfig, distil
from googlenet_edge.export import unfolded
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.reports import Observer
from googlenet_edge.training_loop import TrainingData, evaluate_model


def finetuned(
    checkpoint: Checkpoint,
    graph: InferenceGraph,
    ranges: Mapping[str, Ranges],
    data: TrainingData,
    config: DistilConfig,
    *,
    weight_range: WeightRange,
    observer: Observer,
    workers: int = 2,
) -> Checkpoint:
    """The checkpoint whose INT8 graph follows the given one's float logits; not written.

    Auxiliary heads stay as they are. The record tells of the fine-tuning and names the parent.

    Args:
        graph: the checkpoint's graph as it is about to be quantized.
        ranges: of each of its measured tensors.
        config: without mixed precision, which would round more coarsely than the grids do.

    Raises:
        CalibrationError, LoweringError: the ranges or the graph do not fit, see `FakeQuantized`.
        TrainingError: the loss is not finite.
        StoppedError: the observer asked to stop; nothing is left of what was done.
    """
    student = FakeQuantized(graph, ranges, weight_range=weight_range)
    started = time.monotonic()
    distil(student, build_model(checkpoint), data, config, observer=observer, workers=workers)
    tuned = Checkpoint(checkpoint.info, unfolded(student.weights(), checkpoint))
    top1, top5 = evaluate_model(build_model(tuned), data.val, data.preprocess)
    record = TrainingRecord(
        epochs=config.epochs,
        images=len(data.train),
        images_sha256=data.train_sha256,
        val_images_sha256=data.val_sha256,
        val_top1=top1,
        val_top5=top5,
        seconds=time.monotonic() - started,
        parent_sha256=checkpoint.sha256,
    )
    return replace(tuned, info=replace(checkpoint.info, training=record))
