"""A foreign network in memory, without what does nothing: Dropout, Identity, and what depends on constants alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.file import NO_OPERATION, ForeignFile
from googlenet_edge.foreign.runtime import Arrays, open_session, run_session
from googlenet_edge.graph import live


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
        if original.output[0] in weights:
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
