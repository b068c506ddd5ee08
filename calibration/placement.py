"""Which tensors are quantized, and which grid each of them gets: the one place where this is decided.

Statistics are collected for the tensors that have a grid of their own, the lowering places one quantization on every
tensor that has a grid, and the audit expects the integer operator that each node then becomes.

Every tensor has one grid or none, and all that read it read the same values. It has one where an operator that computes
on integers wrote it or reads it. So a single operator that is left in float still reads and writes rounded values: what
must stay float with it is a `Layer`.

Rounding activations costs far more accuracy than rounding weights, and a tensor is rounded as long as one operator on
integers writes or reads it. So the unit of what can be left in float is not a convolution but what is rounded: the
output of a layer with its copies (pooled, concatenated), and every convolution that writes it or reads it. Each
rounding is in one layer, and its noise is gone when that layer is float, whatever the others are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import onnx


class Role(Enum):
    """When an operator runs on integers."""

    COMPUTES = "computes"
    """Always, unless it is asked to stay float: it gives new values, which are rounded."""
    COPIES = "copies"
    """Where all that it reads was computed on integers, or something on integers reads it: it rounds nothing."""
    FLOAT = "float"
    """Never."""


class Grid(Enum):
    """Where the grid of an operator's output comes from."""

    OWN = "own"
    """Its own range."""
    INPUT = "input"
    """That of the input."""
    RELU = "relu"
    """None where one ReLU alone reads it, which the operator absorbs; else its own range."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of operator is quantized, and what ONNX Runtime then makes of it."""

    role: Role
    output: Grid
    integer_operators: tuple[str, ...] = ()


RULES = MappingProxyType(
    {
        "Conv": Rule(Role.COMPUTES, Grid.RELU, ("QLinearConv",)),
        "Gemm": Rule(Role.COMPUTES, Grid.RELU, ("QGemm",)),
        "Relu": Rule(Role.FLOAT, Grid.OWN),  # or absorbed: with zero-point 0, clipping at code 0 is the ReLU
        "MaxPool": Rule(Role.COPIES, Grid.INPUT, ("NhwcMaxPool", "MaxPool")),
        "Concat": Rule(Role.COPIES, Grid.OWN, ("QLinearConcat",)),
        "GlobalAveragePool": Rule(Role.COMPUTES, Grid.OWN, ("QLinearGlobalAveragePool",)),
        "Flatten": Rule(Role.COPIES, Grid.INPUT, ("Flatten",)),
    }
)
WITH_WEIGHTS = ("Conv", "Gemm")
NO_NODES: frozenset[str] = frozenset()
_NO_RULE = Rule(Role.FLOAT, Grid.OWN)


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs that are activations."""
    return list(node.input[:1]) if node.op_type in WITH_WEIGHTS else list(node.input)


def measured_tensors(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The tensors whose range must be known, in the graph's order: its input and what has a grid of its own.

    They are enough for any choice of nodes that stay float, since that takes grids away and gives none.
    """
    quantized = _quantized(graph, NO_NODES)
    return tuple(t for t, source in sources(graph).items() if t == source and t in quantized)


def grids(graph: onnx.GraphProto, float_nodes: AbstractSet[str] = NO_NODES) -> dict[str, str]:
    """For every tensor that is quantized, the measured tensor whose range gives its grid.

    The branches that only a Concat reads take the Concat's grid: their values are then rounded once and not twice, and
    the Concat copies codes. In a trial this gained 0.3 dB and 3 % of the time over a grid for each branch. Not so a
    branch with a ReLU where another has values below zero: on such a grid the ReLU cannot be absorbed.

    Args:
        float_nodes: names of the nodes that are to stay float. What has no rule stays float, too.
    """
    quantized, readers, positive = _quantized(graph, float_nodes), reader_counts(graph), from_zero(graph)
    found = {tensor: source for tensor, source in sources(graph).items() if tensor in quantized}
    for node in reversed(graph.node):  # what joins Concats before what they join
        grid = found.get(node.output[0])
        if node.op_type == "Concat" and grid:
            alone = [t for t in node.input if found.get(t) == t and readers[t] == 1]
            found.update({t: grid for t in alone if t not in positive or grid in positive})
    return found


def staying_float(graph: onnx.GraphProto, float_nodes: AbstractSet[str]) -> frozenset[str]:
    """The names of the nodes that do not run on integers."""
    quantized = _quantized(graph, float_nodes)

    def in_float(node: onnx.NodeProto) -> bool:
        role = _role(node, float_nodes)
        return role is Role.FLOAT or (role is Role.COPIES and node.output[0] not in quantized)

    return frozenset(node.name for node in graph.node if in_float(node))


def without_rule(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of operators that have no rule, and so stay float."""
    return [node for node in graph.node if node.op_type not in RULES]


def absorbed_in_relu(graph: onnx.GraphProto) -> dict[str, str]:
    """The outputs of convolutions and classifiers that one ReLU alone reads, and the ReLU's output."""
    readers = reader_counts(graph)
    after_relu = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    weighted = [node.output[0] for node in graph.node if _rule(node).output is Grid.RELU]
    return {tensor: after_relu[tensor] for tensor in weighted if tensor in after_relu and readers[tensor] == 1}


def from_zero(graph: onnx.GraphProto) -> set[str]:
    """The tensors that have no value below zero, because ReLUs made all that they are of."""
    found = set[str]()
    for node in graph.node:
        keeps_sign = node.op_type in ("MaxPool", "Concat", "GlobalAveragePool", "Flatten")
        if node.op_type == "Relu" or (keeps_sign and found.issuperset(node.input)):
            found.add(node.output[0])
    return found


def reader_counts(graph: onnx.GraphProto) -> Counter[str]:
    """How many times each tensor is read; the graph's outputs count as read."""
    return Counter([name for node in graph.node for name in node.input] + [output.name for output in graph.output])


def _rule(node: onnx.NodeProto) -> Rule:
    return RULES.get(node.op_type, _NO_RULE)


def _role(node: onnx.NodeProto, float_nodes: AbstractSet[str]) -> Role:
    return Role.FLOAT if node.name in float_nodes else _rule(node).role


def _quantized(graph: onnx.GraphProto, float_nodes: AbstractSet[str]) -> set[str]:
    """The tensors that are computed on integers, and those that are needed as integers."""
    absorbed, computed, needed = absorbed_in_relu(graph), set[str](), set[str]()
    for node in graph.node:
        role, output = _role(node, float_nodes), node.output[0]
        if role is Role.COMPUTES or (role is Role.COPIES and computed.issuperset(data_inputs(node))):
            computed.add(absorbed.get(output, output))
    for node in reversed(graph.node):
        role = _role(node, float_nodes)
        if role is Role.COMPUTES or (role is Role.COPIES and node.output[0] in needed):
            needed.update(data_inputs(node))
    return (computed | needed) - _answers(graph)


def sources(graph: onnx.GraphProto) -> dict[str, str]:
    """For every tensor that may be quantized, the tensor whose range is its grid; no branch of a Concat is tied yet."""
    never = absorbed_in_relu(graph).keys() | _answers(graph)
    found = {graph.input[0].name: graph.input[0].name}
    for node in graph.node:
        for tensor in node.output:
            if tensor not in never:
                found[tensor] = found.get(node.input[0], tensor) if _rule(node).output is Grid.INPUT else tensor
    return found


def _answers(graph: onnx.GraphProto) -> set[str]:
    """The outputs, and what only copies and operators without a rule turn into one: the scores of the classes.

    They are not rounded, or equal logits would be many.
    """
    found, readers = {output.name for output in graph.output}, dict[str, list[onnx.NodeProto]]()
    for node in reversed(graph.node):
        read_by = readers.get(node.output[0], [])
        if read_by and all(reader.output[0] in found and _hands_on(reader) for reader in read_by):
            found.update(node.output)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return found


def _hands_on(node: onnx.NodeProto) -> bool:
    return node.op_type not in RULES or _rule(node).output is Grid.INPUT


@dataclass(frozen=True, slots=True)
class Layer:
    """One rounding.

    Attributes:
        name: the tensor whose range gives the grid, such as ``inception4c``.
        tensors: those that hold the same values, in the graph's order.
        nodes: the names of what computes them, or computes with them.
    """

    name: str
    tensors: tuple[str, ...]
    nodes: frozenset[str]


def layers(graph: onnx.GraphProto) -> tuple[Layer, ...]:
    """The layers of a graph in its order. All of them in float is the whole graph in float."""
    grid_of = grids(graph)
    return tuple(
        Layer(grid_of[group[0]], group, _rounding_nodes(graph, frozenset(group)))
        for group in _copies_together(graph, grid_of)
    )


def float_nodes(chosen: Iterable[Layer]) -> frozenset[str]:
    """The names of the nodes that stay float where all of these layers do."""
    return frozenset(name for layer in chosen for name in layer.nodes)


def _copies_together(graph: onnx.GraphProto, quantized: dict[str, str]) -> list[tuple[str, ...]]:
    """The quantized tensors, those together that are copied from and to each other."""
    group_of: dict[str, tuple[str, ...]] = {tensor: (tensor,) for tensor in quantized}
    for node in graph.node:
        if node.op_type in RULES and RULES[node.op_type].role is Role.COPIES:
            parts = [group_of[t] for t in (*data_inputs(node), *node.output) if t in group_of]
            joined = tuple(dict.fromkeys(tensor for part in parts for tensor in part))
            group_of |= dict.fromkeys(joined, joined)
    return list(dict.fromkeys(group_of.values()))


def _rounding_nodes(graph: onnx.GraphProto, tensors: frozenset[str]) -> frozenset[str]:
    """The nodes that write or read one of the tensors and round what they give."""
    absorbed = absorbed_in_relu(graph)

    def touches(node: onnx.NodeProto) -> bool:
        ends = {absorbed.get(tensor, tensor) for tensor in node.output}
        return not tensors.isdisjoint(ends) or not tensors.isdisjoint(data_inputs(node))

    computing = [n for n in graph.node if n.op_type in RULES and RULES[n.op_type].role is Role.COMPUTES]
    return frozenset(node.name for node in computing if touches(node))
