"""The FP32 graph, run for the values of its activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import measured_tensors
from googlenet_edge.calibration.session import open_session
from googlenet_edge.graph import INPUT, InferenceGraph

Image = NDArray[np.float32]
"""``(1, 3, crop, crop)`` after preprocessing."""


class Network:
    """The graph with its measured tensors as outputs."""

    def __init__(self, graph: InferenceGraph) -> None:
        """Opens the graph."""
        self._names = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        for name in self._names:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        self._session = open_session(model, threads=1)

    def activations(self, image: Image) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, float32 values) of the tensors, the input first. From any number of threads at once."""
        yield INPUT, image
        yield from zip(self._names, self._session.run(self._names, {INPUT: image}), strict=True)
