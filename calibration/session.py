"""ONNX Runtime as the judge of a graph: silent, and exact on every processor; the activations of the FP32 graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import measured_tensors
from googlenet_edge.dataset import in_threads
from googlenet_edge.graph import INPUT, InferenceGraph
from googlenet_edge.processor import read_processor, usable_cores

_ERRORS_ONLY = 3
_MOST_STREAMS = 4  # each holds the activations of an image

Image = NDArray[np.float32]
"""``(1, 3, crop, crop)`` after preprocessing."""

Item = TypeVar("Item")
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


def side_by_side(function: Callable[[Item], Result], images: Iterable[Item]) -> Iterator[Result]:
    """``map`` over images, as many at a time as there are cores, at most 4; in their order."""
    return in_threads(function, images, workers=min(_MOST_STREAMS, usable_cores()))


class Network:
    """The FP32 graph with its measured tensors as outputs."""

    def __init__(self, graph: InferenceGraph) -> None:
        """Opens the graph."""
        self._names = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
        model = copy.deepcopy(graph.model)
        for name in self._names:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        self._session = open_session(model, threads=1)

    def activations(self, image: Image) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, float32 values) of the tensors, the input first. From any number of threads at once."""
        yield INPUT, image
        yield from zip(self._names, self._session.run(self._names, {INPUT: image}), strict=True)
