"""ONNX Runtime as the judge of a graph: silent, and exact on every processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import onnx
import onnxruntime

from googlenet_edge.dataset import in_threads
from googlenet_edge.processor import read_processor

_ERRORS_ONLY = 3
_MOST_STREAMS = 4  # each holds the activations of an image

Image = TypeVar("Image")
Result = TypeVar("Result")


def open_session(
    model: onnx.ModelProto,
    level: onnxruntime.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    *,
    threads: int = 0,
) -> onnxruntime.InferenceSession:
    """A model, ready to run on the CPU. Sums of 8-bit products are exact, however long that takes.

    ``threads`` compute one run, by default all cores. With one, runs that go on `side_by_side` share the cores better.

    Without ``session.x64quantprecision``, models with 8-bit weights saturate on processors without VNNI.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    if read_processor().saturates_u8s8:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def side_by_side(function: Callable[[Image], Result], images: Iterable[Image]) -> Iterator[Result]:
    """``map`` over images, as many at a time as there are cores, at most 4; in their order."""
    return in_threads(function, images, workers=min(_MOST_STREAMS, len(os.sched_getaffinity(0))))
