"""What ONNX Runtime really makes of a lowered graph: a census of what it runs, and what is not integer and why.

A graph of quantize and dequantize pairs says what is meant. Only the graph that the runtime writes after its own
optimization says what is run.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import numpy_helper

from googlenet_edge.calibration.placement import NO_NODES, RULES, WITH_WEIGHTS, Grid, data_inputs
from googlenet_edge.calibration.surgery import Index
from googlenet_edge.errors import LoweringError, why

_KEEPS_TYPE = {"Transpose", "MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Split"}
_BORDERS = {"QuantizeLinear", "DequantizeLinear"}
_QGEMM_OUTPUT_SCALE = 7  # where it stands among the inputs of ONNX Runtime's QGemm; without, that gives floats


@dataclass(frozen=True, slots=True)
class RunNode:
    """A node that the runtime runs; ``integer`` where it computes on codes."""

    name: str
    operator: str
    integer: bool


@dataclass(frozen=True, slots=True)
class Census:
    """The nodes that the runtime runs."""

    nodes: tuple[RunNode, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes of each operator: of a whole GoogLeNet 57 QLinearConv, 13 NhwcMaxPool, 9 QLinearConcat …

        With its 1×1 convolutions merged it has 39 QLinearConv and 9 Split.
        """
        return dict(Counter(node.operator for node in self.nodes))

    def integer(self, kind: str) -> int:
        """How many nodes do the work of an ONNX operator, such as ``Conv``, on integers."""
        operators = RULES[kind].integer_operators
        return sum(node.integer and node.operator in operators for node in self.nodes)


def take_census(model: onnx.ModelProto) -> Census:
    """Has ONNX Runtime optimize a model for its CPU provider and lists what comes out.

    Raises:
        LoweringError: ONNX Runtime cannot load the model.
    """
    nodes: list[RunNode] = []
    graph = _optimized(model).graph
    codes = {i.name for i in graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        integer = node.op_type not in _BORDERS and any(name in codes for name in node.input)
        nodes.append(RunNode(node.name, node.op_type, integer))
        if _gives_codes(node, integer):
            codes.update(node.output)
    return Census(tuple(nodes))


def missing(lowered: onnx.ModelProto, census: Census, *, float_nodes: AbstractSet[str] = NO_NODES) -> tuple[str, ...]:
    """One clause for each node of a lowered graph, rewritten or not, that could run on integers and does not.

    The counts decide, so that a runtime which names its nodes in another way is not accused; the names explain.

    Args:
        float_nodes: those that are to stay float; a clause, too, for each that does not.
    """
    explain, kept = _Explainer(lowered.graph), _integer_names(census, {node.name for node in lowered.graph.node})
    clauses: list[str] = []
    for kind, rule in RULES.items():
        of_kind = [node for node in lowered.graph.node if node.op_type == kind]
        nodes = [n for n in of_kind if not set(n.name.split("+")) <= float_nodes]  # as merged ones are named
        if rule.integer_operators and census.integer(kind) < len(nodes):
            clauses += [f"{kind} {n.name} stayed float: {explain.why(n)}" for n in nodes if n.name not in kept]
    clauses += [f"{name} was to stay float, and ONNX Runtime made it integer" for name in sorted(kept & float_nodes)]
    return tuple(clauses)


def _optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime runs for a model."""
    with tempfile.TemporaryDirectory(prefix="gnet-edge-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4  # it warns that the file is for this machine only, which is what is wanted
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # the runtime's own errors have no common base; a full disk is among them
            raise LoweringError(f"ONNX Runtime cannot load the lowered graph: {why(problem)}") from problem
        return onnx.load(path)


def _gives_codes(node: onnx.NodeProto, integer: bool) -> bool:
    if node.op_type in _KEEPS_TYPE:
        return integer
    if node.op_type == "QGemm":
        return len(node.input) > _QGEMM_OUTPUT_SCALE
    return node.op_type.startswith("QLinear") or node.op_type in {"QuantizeLinear", "NhwcMaxPool"}


def _integer_names(census: Census, names: set[str]) -> set[str]:
    """The nodes that run on integers; the runtime names a node after what it was, with suffixes like ``_1``."""
    operators = {operator for rule in RULES.values() for operator in rule.integer_operators}
    found: set[str] = set()
    for node in census.nodes:
        name = node.name
        while name not in names and "_" in name:
            name = name.rpartition("_")[0]
        if node.integer and node.operator in operators:
            found.add(name)
    return found


class _Explainer:
    """Says what keeps a node of a lowered graph from running on integers."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._index = Index(graph)

    def why(self, node: onnx.NodeProto) -> str:
        """The first thing that is wrong around a node."""
        return self._input_fault(node) or self._output_fault(node) or "ONNX Runtime did not fuse it"

    def _input_fault(self, node: onnx.NodeProto) -> str:
        inputs = node.input if node.op_type in WITH_WEIGHTS else data_inputs(node)
        plain = [i for i in inputs if i not in self._index.maker or self._index.maker[i].op_type != "DequantizeLinear"]
        return f"its input {plain[0]} does not come from a DequantizeLinear" if plain else ""

    def _output_fault(self, node: onnx.NodeProto) -> str:
        output = node.output[0]
        if RULES[node.op_type].output is Grid.RELU and [r.op_type for r in self._read_by(output)] == ["Relu"]:
            output = self._read_by(output)[0].output[0]
        readers = self._read_by(output)
        quantize = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
        if output in self._index.outputs and not readers:
            return ""
        if not quantize:
            return f"its output {output} has no QuantizeLinear"
        if len(readers) > 1:
            return f"its output {output} is read by {len(readers)} nodes where one QuantizeLinear is expected"
        if RULES[node.op_type].output is Grid.INPUT and self._grid(quantize[0]) != self._grid_before(node):
            return "its output has another grid than its input"
        return ""

    def _read_by(self, tensor: str) -> list[onnx.NodeProto]:
        return self._index.readers.get(tensor, [])

    def _grid_before(self, node: onnx.NodeProto) -> list[bytes]:
        return self._grid(self._index.maker[node.input[0]])

    def _grid(self, node: onnx.NodeProto) -> list[bytes]:
        """Scale and zero-point of a QuantizeLinear or DequantizeLinear, as bytes."""
        constants = self._index.constants
        return [numpy_helper.to_array(constants[n]).tobytes() if n in constants else b"" for n in node.input[1:]]
