"""Which tensors are quantized, and which grid each of them gets: the one place where this is decided.

Statistics are collected for the tensors that have a grid of their own, the lowering places one quantization on every
tensor that has a grid, and the audit expects the integer operator that each node then becomes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import onnx

from googlenet_edge.errors import LoweringError


class Grid(Enum):
    """Where the grid of an operator's output comes from."""

    OWN = "its own range"
    INPUT = "that of the input"
    RELU = "none where one ReLU alone reads it, which the operator absorbs; else its own range"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of operator is quantized, and what ONNX Runtime then makes of it."""

    output: Grid
    integer_operators: tuple[str, ...]


RULES = MappingProxyType(
    {
        "Conv": Rule(Grid.RELU, ("QLinearConv",)),
        "Gemm": Rule(Grid.RELU, ("QGemm",)),
        "Relu": Rule(Grid.OWN, ()),  # absorbed: with zero-point 0, clipping at code 0 is the ReLU
        "MaxPool": Rule(Grid.INPUT, ("NhwcMaxPool", "MaxPool")),
        "Concat": Rule(Grid.OWN, ("QLinearConcat",)),
        "GlobalAveragePool": Rule(Grid.OWN, ("QLinearGlobalAveragePool",)),
        "Flatten": Rule(Grid.INPUT, ("Flatten",)),
    }
)
WITH_WEIGHTS = ("Conv", "Gemm")


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs that are activations."""
    return list(node.input[:1]) if node.op_type in WITH_WEIGHTS else list(node.input)


def measured_tensors(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The tensors whose range must be known, in the graph's order: its input and what has a grid of its own."""
    return tuple(tensor for tensor, source in _sources(graph).items() if tensor == source)


def grids(graph: onnx.GraphProto) -> dict[str, str]:
    """For every tensor that is quantized, the measured tensor whose range gives its grid.

    The branches that only a Concat reads take the Concat's grid: their values are then rounded once and not twice, and
    the Concat copies codes. In a trial this gained 0.3 dB and 3 % of the time over a grid for each branch.
    """
    sources = _sources(graph)
    readers = reader_counts(graph)
    for node in graph.node:
        if node.op_type == "Concat":
            tied = {t: node.output[0] for t in node.input if sources[t] == t and readers[t] == 1}
            sources.update(tied)
    return sources


def reader_counts(graph: onnx.GraphProto) -> Counter[str]:
    """How many times each tensor is read; the graph's outputs count as read."""
    return Counter([name for node in graph.node for name in node.input] + [output.name for output in graph.output])


def _sources(graph: onnx.GraphProto) -> dict[str, str]:
    """The same as `grids` before the branches of a Concat are tied. Raises `LoweringError` for an unknown operator."""
    for node in graph.node:
        if node.op_type not in RULES:
            raise LoweringError(
                f"the graph has {node.op_type} ({node.name}), which has no rule; export the graph again"
            )
    outputs = {output.name for output in graph.output}
    absorbed = _absorbed_in_relu(graph)
    sources = {graph.input[0].name: graph.input[0].name}
    for node in graph.node:
        tensor = node.output[0]
        if tensor not in outputs | absorbed:
            sources[tensor] = sources[node.input[0]] if RULES[node.op_type].output is Grid.INPUT else tensor
    return sources


def _absorbed_in_relu(graph: onnx.GraphProto) -> set[str]:
    """The outputs of convolutions and classifiers that one ReLU alone reads."""
    readers = reader_counts(graph)
    before_relu = {node.input[0] for node in graph.node if node.op_type == "Relu"}
    weighted = {node.output[0] for node in graph.node if RULES[node.op_type].output is Grid.RELU}
    return {tensor for tensor in before_relu & weighted if readers[tensor] == 1}
