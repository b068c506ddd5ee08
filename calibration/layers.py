"""Layers as they can be left in float: a rounding, and all that has to stay float for it not to happen.

Rounding activations costs far more accuracy than rounding weights, and a tensor is rounded as long as one operator on
integers writes or reads it. So the unit is not a convolution but what is rounded: the output of a layer with its
copies (pooled, concatenated), and every convolution that writes it or reads it. Each rounding is in one layer, and its
noise is gone when that layer is float, whatever the others are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from googlenet_edge.calibration.placement import RULES, Role, absorbed_in_relu, data_inputs, grids


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
        Layer(grid_of[group[0]], group, _computing(graph, frozenset(group))) for group in _groups(graph, grid_of)
    )


def float_nodes(chosen: Iterable[Layer]) -> frozenset[str]:
    """The names of the nodes that stay float where all of these layers do."""
    return frozenset(name for layer in chosen for name in layer.nodes)


def _groups(graph: onnx.GraphProto, quantized: dict[str, str]) -> list[tuple[str, ...]]:
    """The quantized tensors, those together that are copied from and to each other."""
    group_of: dict[str, tuple[str, ...]] = {tensor: (tensor,) for tensor in quantized}
    for node in graph.node:
        if node.op_type in RULES and RULES[node.op_type].role is Role.COPIES:
            parts = [group_of[t] for t in (*data_inputs(node), *node.output) if t in group_of]
            joined = tuple(dict.fromkeys(tensor for part in parts for tensor in part))
            group_of |= dict.fromkeys(joined, joined)
    return list(dict.fromkeys(group_of.values()))


def _computing(graph: onnx.GraphProto, tensors: frozenset[str]) -> frozenset[str]:
    """The nodes that write or read one of the tensors and round what they give."""
    absorbed = absorbed_in_relu(graph)

    def touches(node: onnx.NodeProto) -> bool:
        ends = {absorbed.get(tensor, tensor) for tensor in node.output}
        return not tensors.isdisjoint(ends) or not tensors.isdisjoint(data_inputs(node))

    computing = [n for n in graph.node if n.op_type in RULES and RULES[n.op_type].role is Role.COMPUTES]
    return frozenset(node.name for node in computing if touches(node))
