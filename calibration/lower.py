"""Lowering: the FP32 graph and its table → the graph for one device.

ONNX Runtime's CPU provider turns a graph of QuantizeLinear and DequantizeLinear pairs into integer operators only where
they stand as it expects: one pair on every tensor, shared by all that read it, weights and biases as integers behind a
DequantizeLinear. `placement` says where; this module writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from googlenet_edge.calibration.pixels import absorb_normalization, taking_codes, taking_pixels
from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS, grids
from googlenet_edge.calibration.ranges import Ranges, U8Grid, u8_grid
from googlenet_edge.calibration.rescale import rescaled
from googlenet_edge.calibration.rounding import compensated
from googlenet_edge.calibration.surgery import cast, half, model_like, renamed, rounding_pair
from googlenet_edge.calibration.table import CalibrationTable, decode_floats
from googlenet_edge.calibration.weights import WeightRange, quantize_weights
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import INPUT, InferenceGraph


def lower_int8_cpu(
    graph: InferenceGraph,
    table: CalibrationTable,
    *,
    weight_range: WeightRange = WeightRange.FULL,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> onnx.ModelProto:
    """The graph in u8 activations and s8 per-channel weights, for ONNX Runtime's CPU provider.

    Pixels are the first convolution's codes where `absorb_normalization` can have it so; else they are normalized in
    float and quantized. The logits stay float32. The same graph and table give the same model.

    Args:
        float_nodes: names of nodes that stay float, as `placement.grids` says.

    Raises:
        CalibrationError: the table belongs to another graph.
    """
    ready = prepared(graph, table, weight_range=weight_range, float_nodes=float_nodes)
    with fitting():
        return quantized(ready, table.ranges, weight_range=weight_range, float_nodes=float_nodes)


def lower_rounded_activations(
    graph: InferenceGraph, table: CalibrationTable, tensors: AbstractSet[str]
) -> onnx.ModelProto:
    """The FP32 graph with some activations rounded to their u8 grids, and nothing else: what that alone costs.

    Raises:
        CalibrationError: the table belongs to another graph.
    """
    ready, source = rescaled_by(graph, table), graph.model.graph
    exact_input = {INPUT} if absorb_normalization(ready) else NO_NODES
    placed = {tensor: name for tensor, name in grids(source).items() if tensor in tensors - exact_input}
    with fitting():
        grid_of = {name: u8_grid(table.ranges, name) for name in dict.fromkeys(placed.values())}
    every_node = {node.name for node in source.node}
    writer = _u8_writer(placed, grid_of, ready, WeightRange.FULL, every_node)
    return taking_pixels(writer.model_of(ready.model), graph.preprocess)


def prepared(
    graph: InferenceGraph,
    table: CalibrationTable,
    *,
    weight_range: WeightRange,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> InferenceGraph:
    """The float graph that is to be quantized: channels rescaled, weights on their codes, and biases corrected.

    Raises:
        CalibrationError: the table belongs to another graph.
    """
    found = rescaled_by(graph, table)
    with fitting():
        return compensated(
            found,
            table.ranges,
            steps=table.steps(weight_range),
            means={name: decode_floats(data) for name, data in table.means.items()},
            weight_range=weight_range,
            float_nodes=float_nodes,
        )


def rescaled_by(graph: InferenceGraph, table: CalibrationTable) -> InferenceGraph:
    """The float graph that the table's ranges are for, of which every channel is as large as the table says.

    Raises:
        CalibrationError: the table belongs to another graph.
    """
    if table.graph_sha256 != graph.sha256:
        raise CalibrationError(
            f"the calibration table belongs to the graph {table.graph_sha256[:12]}, not to {graph.sha256[:12]};"
            " calibrate this graph"
        )
    factors = {name: decode_floats(data) for name, data in table.rescale.items()}
    with fitting():
        return rescaled(graph, factors) if factors else graph


@contextmanager
def fitting() -> Iterator[None]:
    """What of a table does not fit its graph becomes a `CalibrationError`."""
    try:
        yield
    except (KeyError, ValueError) as problem:
        raise CalibrationError(
            f"the calibration table does not fit the graph ({problem}); calibrate again"
        ) from problem


def quantized(
    graph: InferenceGraph,
    ranges: Mapping[str, Ranges],
    *,
    weight_range: WeightRange = WeightRange.FULL,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> onnx.ModelProto:
    """The graph as it is, with Q/DQ pairs for the ranges of its measured tensors.

    Raises:
        KeyError: a range is missing.
    """
    placed = grids(graph.model.graph, float_nodes)
    absorbed = absorb_normalization(graph) if INPUT in placed else None
    ready = graph if absorbed is None else replace(graph, model=absorbed.model)
    grid = {name: u8_grid(ranges, name) for name in dict.fromkeys(placed.values())}
    if absorbed:
        grid[INPUT] = U8Grid(INPUT, np.float32(1), np.uint8(absorbed.zero_point))
    writer = _u8_writer(placed, grid, ready, weight_range, float_nodes)
    model = writer.model_of(ready.model, codes_in=absorbed is not None)
    if absorbed:
        return taking_codes(model, f"{INPUT}.quantized", crop=graph.preprocess.crop)
    return taking_pixels(model, graph.preprocess)


def lower_fp32(graph: InferenceGraph) -> onnx.ModelProto:
    """The graph as it is, of pixels."""
    return taking_pixels(graph.model, graph.preprocess)


def lower_fp16_storage(graph: InferenceGraph) -> onnx.ModelProto:
    """Weights stored as float16 and computed with in float32: half the file, for devices without float16 arithmetic.

    The runtime widens the weights once, when it loads the file.

    Raises:
        LoweringError: a weight is too large for float16.
    """
    weights = [w for w in graph.model.graph.initializer if w.data_type == TensorProto.FLOAT]
    others = [w for w in graph.model.graph.initializer if w.data_type != TensorProto.FLOAT]
    casts = [cast(f"{w.name}.half", w.name, TensorProto.FLOAT) for w in weights]
    halves = [half(w, f"{w.name}.half") for w in weights]
    nodes = [*casts, *graph.model.graph.node]
    return taking_pixels(model_like(graph.model, nodes, [*halves, *others]), graph.preprocess)


@dataclass
class QdqWriter:
    """Copies nodes and puts QuantizeLinear and DequantizeLinear around them.

    ``pairs``: of each tensor that has a grid, the names of its scale and zero-point, which are among ``constants``.
    """

    pairs: Mapping[str, tuple[str, str]]
    constants: dict[str, NDArray[np.generic]]
    weights: dict[str, NDArray[np.float32]]
    float_nodes: AbstractSet[str]
    weight_range: WeightRange = WeightRange.FULL
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def model_of(self, model: onnx.ModelProto, *, codes_in: bool = False) -> onnx.ModelProto:
        """The model with the pairs. With ``codes_in`` it reads ``images.quantized`` in the place of ``images``."""
        if INPUT in self.pairs:
            self.nodes += self._pair(INPUT)[codes_in:]
        for node in model.graph.node:
            self._add(node)
        read = {name for node in self.nodes for name in node.input}
        read -= {name for node in self.nodes for name in node.output}
        stored = self.constants | {name: value for name, value in self.weights.items() if name in read}
        return model_like(model, self.nodes, [numpy_helper.from_array(value, name) for name, value in stored.items()])

    def _add(self, node: onnx.NodeProto) -> None:
        """The node on dequantized inputs, and its outputs quantized where they have a grid."""
        if node.op_type in WITH_WEIGHTS and node.name not in self.float_nodes:
            self.add_weights(node)
        self.nodes.append(renamed(node, {t: f"{t}.dequantized" for t in node.input if t in self.pairs}))
        for tensor in node.output:
            if tensor in self.pairs:
                self.nodes += self._pair(tensor)

    def _pair(self, tensor: str) -> list[onnx.NodeProto]:
        return rounding_pair(tensor, self.pairs[tensor])

    def add_weights(self, node: onnx.NodeProto) -> None:
        """Weight and bias as integers, and their dequantization under the names that they had."""
        data, weight, bias = node.input
        quantized = quantize_weights(
            self.weights[weight],
            self.weights[bias],
            input_scale=np.float32(self.constants[self.pairs[data][0]]),
            weight_range=self.weight_range,
        )
        self.dequantized(weight, quantized.codes, quantized.scale)
        self.dequantized(bias, quantized.bias_codes, quantized.bias_scale)

    def dequantized(self, name: str, codes: NDArray[np.integer], scale: NDArray[np.float32]) -> onnx.NodeProto:
        """Adds a constant as codes with a scale for each output channel, and the node that gives it back."""
        parts = {"quantized": codes, "scale": scale, "zero_point": np.zeros(len(scale), codes.dtype)}
        self.constants |= {f"{name}.{part}": value for part, value in parts.items()}
        inputs = [f"{name}.{part}" for part in parts]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.dequantize", axis=0))
        return self.nodes[-1]


def _u8_writer(
    placed: Mapping[str, str],
    grid_of: Mapping[str, U8Grid],
    graph: InferenceGraph,
    weight_range: WeightRange,
    float_nodes: AbstractSet[str],
) -> QdqWriter:
    """``placed``: of each tensor that has a grid, the measured tensor whose it is."""
    names = {name: (f"{name}.scale", f"{name}.zero_point") for name in grid_of}
    constants = dict[str, NDArray[np.generic]]()
    for name, grid in grid_of.items():
        constants |= zip(names[name], map(np.asarray, (grid.scale, grid.zero_point)), strict=True)
    pairs = {tensor: names[name] for tensor, name in placed.items()}
    return QdqWriter(pairs, constants, graph.weights, float_nodes, weight_range)
