"""A foreign network in memory, without what does nothing: Dropout, Identity, and what depends on constants alone.

And how ONNX Runtime runs one: its errors become clear ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import NO_OPERATION, ForeignFile, why
from googlenet_edge.graph import live

Arrays = dict[str, NDArray[Any]]

_SILENT = 4


@dataclass(frozen=True)
class Network:
    """A foreign network up to its logits; ``where`` names its file in messages.

    ``nodes`` are in the order of computation, ``weights`` are all constants, ``shapes`` are those that are known.
    """

    nodes: tuple[NodeProto, ...]
    weights: Arrays
    shapes: dict[str, tuple[int, ...]]
    input: str
    output: str
    where: str


def read_network(file: ForeignFile) -> Network:
    """The network of a file up to its logits.

    Raises:
        GraphError: its constants cannot be computed, or its images are not looked at.
    """
    weights = {w.name: numpy_helper.to_array(w) for w in file.model.graph.initializer}
    weights |= _computed(file, weights)
    same: dict[str, str] = {}
    nodes = []
    for original in file.model.graph.node:
        if not original.output or original.output[0] in weights:
            continue
        node = NodeProto()
        node.CopyFrom(original)
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type in NO_OPERATION:
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    output = same.get(file.logits, file.logits)
    network = Network(live(nodes, {output}), weights, file.shapes, file.input, output, str(file.path))
    if not any(file.input in node.input for node in network.nodes):
        raise GraphError(f"{file.path} gives scores that do not depend on the images; export it again")
    return network


def _computed(file: ForeignFile, weights: Arrays) -> Arrays:
    """What depends on constants alone, computed by ONNX Runtime."""
    known = set(weights)
    nodes = []
    for node in file.model.graph.node:
        if not node.op_type.startswith("Random") and all(name in known for name in node.input if name):
            nodes.append(node)
            known.update(node.output)
    if not nodes:
        return {}
    names = [name for node in nodes for name in node.output if name]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [w for w in file.model.graph.initializer if w.name in read],
    )
    model = helper.make_model(graph, opset_imports=file.model.opset_import, ir_version=file.model.ir_version)
    session = open_session(model, str(file.path))
    values = zip(names, run_session(session, names, {}, str(file.path)), strict=True)
    return {name: value for name, value in values if isinstance(value, np.ndarray)}


def open_session(model: onnx.ModelProto, where: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, silent. Raises `GraphError`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # the runtime's own errors have no common base
        raise GraphError(f"ONNX Runtime cannot run {where} ({why(problem)}); export it again") from problem


def run_session(
    session: onnxruntime.InferenceSession, outputs: list[str], feed: Arrays, where: str
) -> list[NDArray[Any]]:
    """The outputs of one run. Raises `GraphError`."""
    try:
        found: list[NDArray[Any]] = session.run(outputs, feed)
    except Exception as problem:  # as above
        raise GraphError(f"ONNX Runtime cannot run {where} ({why(problem)}); export it again") from problem
    return found


class Original:
    """A file up to one of its tensors, run on one image after the other."""

    def __init__(self, file: ForeignFile, tensor: str) -> None:
        """Loads the file. Raises `GraphError`."""
        model = onnx.ModelProto()
        model.CopyFrom(file.model)
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=tensor))
        self._file, self._tensor = file, tensor
        self._session = open_session(model, str(file.path))

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the tensor is: float32 ``(N, 3, crop, crop)`` → float64 ``(N, …)``. Raises `GraphError`."""
        rows = []
        for image in images:
            feed = {self._file.input: np.repeat(image[None], self._file.batch, axis=0)}
            [found] = run_session(self._session, [self._tensor], feed, str(self._file.path))
            rows.append(found[:1].astype(np.float64))
        return np.concatenate(rows)
