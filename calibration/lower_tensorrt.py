"""Lowering for TensorRT, from the same table as for a CPU.

Where ONNX Runtime wants a pair of QuantizeLinear and DequantizeLinear on every tensor, TensorRT wants them on what
convolutions and classifiers read, and nowhere else: it moves each back through Concat, pooling and ReLU into the
kernel of the convolution before. A pair between a convolution and its ReLU, or on a branch of a Concat, would round
twice and keep it from doing so.

| | ONNX Runtime's CPU provider | TensorRT |
|---|---|---|
| activations | u8, asymmetric | s8, symmetric: zero-point 0 |
| pairs | on every tensor, shared by its readers | on what a convolution or classifier reads, shared by its readers |
| weights | s8 per output channel | the same, as floats on their grid and a pair |
| bias | int32, dequantized | float32 |
| input | uint8 NHWC, transposed, then cast | uint8 NHWC, cast, then transposed: it lets nothing but a Cast read uint8 |

Weights are stored as floats, four times as large, which every TensorRT takes. Constants of s8 were "invalid weights
type of Int8" to 8.4 (NVIDIA/TensorRT#2163, #2361); 8.6.1 took some (onnxruntime#17738), and of 8.5 nothing is known.

Everything that is not on integers is float32: TensorRT ≥ 9 takes that literally (strong typing), and before it the
flags allow it float16.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from googlenet_edge.calibration.lower import QdqWriter, fitting, prepared
from googlenet_edge.calibration.pixels import absorb_normalization, taking_pixels_cast_first, taking_pixels_less
from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS, grids
from googlenet_edge.calibration.ranges import s8_scale
from googlenet_edge.calibration.surgery import (
    Index,
    cast,
    copy_for_surgery,
    half,
    model_like,
    renamed,
)
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.calibration.weights import WeightRange, quantize_per_channel
from googlenet_edge.errors import LoweringError
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph

OPSETS = {13: 7, 17: 8}
"""The opsets that can be asked for, each with its IR version. The operators used mean the same in all of them."""

_S8_MIDDLE = 128


def lower_fp32_tensorrt(graph: InferenceGraph) -> onnx.ModelProto:
    """The graph as it is, of pixels."""
    return taking_pixels_cast_first(graph.model, graph.preprocess)


def lower_fp16_tensorrt(graph: InferenceGraph) -> onnx.ModelProto:
    """Weights and activations in float16; pixels are normalized in float32, and the logits are float32.

    Raises:
        LoweringError: a weight is too large for float16.
    """
    source = graph.model
    inner = {INPUT: f"{INPUT}.half", OUTPUT: f"{OUTPUT}.half"}
    nodes = [
        cast(INPUT, inner[INPUT], TensorProto.FLOAT16),
        *(renamed(node, inner) for node in source.graph.node),
        cast(inner[OUTPUT], OUTPUT, TensorProto.FLOAT),
    ]
    halves = [half(w, w.name) if w.data_type == TensorProto.FLOAT else w for w in source.graph.initializer]
    return taking_pixels_cast_first(model_like(source, nodes, halves), graph.preprocess)


def lower_int8_tensorrt(
    graph: InferenceGraph, table: CalibrationTable, *, float_nodes: AbstractSet[str] = NO_NODES
) -> onnx.ModelProto:
    """The graph in s8 activations and s8 per-channel weights, by explicit pairs.

    Where the normalization can be moved into the first convolution, pixels less 128 are its codes, and the input is
    not rounded at all.

    Args:
        float_nodes: names of convolutions and classifiers that stay float.

    Raises:
        CalibrationError: the table belongs to another graph, or has no range for a tensor.
    """
    ready = prepared(graph, table, weight_range=WeightRange.FULL, float_nodes=float_nodes)
    placed = places(ready.model.graph, float_nodes)
    with fitting():
        scales = {name: s8_scale(table.ranges, name) for name in placed.values()}
    absorbed = absorb_normalization(ready) if INPUT in placed else None
    if absorbed is None or absorbed.zero_point != _S8_MIDDLE:
        model = _writer(placed, scales, ready.weights, float_nodes).model_of(ready.model)
        return taking_pixels_cast_first(model, graph.preprocess)
    shifted = replace(ready, model=absorbed.model)
    model = _writer(placed, scales | {INPUT: np.float32(1)}, shifted.weights, float_nodes).model_of(shifted.model)
    return taking_pixels_less(model, _S8_MIDDLE, crop=graph.preprocess.crop)


def lower_implicit_tensorrt(
    graph: InferenceGraph, table: CalibrationTable, *, float_nodes: AbstractSet[str] = NO_NODES
) -> onnx.ModelProto:
    """The float graph that the table's ranges are for: with a calibration cache, a DLA's TensorRT quantizes it itself.

    ``float_nodes``: names of convolutions and classifiers that stay float, with the weights that they had.

    Raises:
        CalibrationError: the table belongs to another graph.
    """
    ready = prepared(graph, table, weight_range=WeightRange.FULL, float_nodes=float_nodes)
    return lower_fp32_tensorrt(with_dla_head(ready))


def places(graph: onnx.GraphProto, float_nodes: AbstractSet[str] = NO_NODES) -> dict[str, str]:
    """For every tensor that has a pair, the measured tensor whose range is its grid.

    Pooling and flattening copy values, so their outputs have the grid of their inputs: the pair commutes with them.
    """
    grid_of = grids(graph)
    on_integers = [n for n in graph.node if n.op_type in WITH_WEIGHTS and n.name not in float_nodes]
    return {node.input[0]: grid_of[node.input[0]] for node in on_integers}


class _Writer(QdqWriter):
    """Of weights as floats on their grid, and biases as they are."""

    def add_weights(self, node: onnx.NodeProto) -> None:
        """A weight on its grid, its codes, and their dequantization under the name that it had."""
        name = node.input[1]
        codes, scale = quantize_per_channel(self.weights[name])
        dequantize = self.dequantized(name, codes, scale)
        made, *grid = dequantize.input
        del self.constants[made]
        self.constants[f"{name}.rounded"] = codes * scale.reshape(-1, *[1] * (codes.ndim - 1))
        inputs = [f"{name}.rounded", *grid]
        quantize = helper.make_node("QuantizeLinear", inputs, [made], name=f"{name}.quantize", axis=0)
        self.nodes.insert(-1, quantize)


def _writer(
    placed: Mapping[str, str],
    scales: Mapping[str, np.float32],
    weights: dict[str, NDArray[np.float32]],
    float_nodes: AbstractSet[str],
) -> _Writer:
    """``placed``: of each tensor that has a pair, the measured tensor whose scale it is."""
    constants = {"zero_point": np.zeros((), np.int8)} | {f"{n}.scale": np.asarray(scale) for n, scale in scales.items()}
    return _Writer({t: (f"{n}.scale", "zero_point") for t, n in placed.items()}, constants, weights, float_nodes)


def in_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same model for a parser that knows no newer opset: one of `OPSETS`."""
    changed = copy.deepcopy(model)
    changed.ir_version = OPSETS[opset]
    del changed.opset_import[:]
    changed.opset_import.append(helper.make_opsetid("", opset))
    return changed


def with_dla_head(graph: InferenceGraph) -> InferenceGraph:
    """The graph with AveragePool, a 1×1 convolution, and Flatten last, which a DLA runs in one piece.

    The logits are the same but for the order of sums. There is no padding to count, but a Xavier's DLA takes no pool
    that would leave it out (NvInfer.h, `setAverageCountExcludesPadding`).

    Raises:
        LoweringError: it does not end with GlobalAveragePool, Flatten and Gemm.
    """
    changed = copy_for_surgery(graph.model)
    index = Index(changed.graph)
    gemm = index.maker[OUTPUT]
    flatten = index.maker.get(gemm.input[0])
    pool = index.maker.get(flatten.input[0]) if flatten else None
    head = tuple(node.op_type for node in (pool, flatten, gemm) if node)
    if pool is None or flatten is None or head != ("GlobalAveragePool", "Flatten", "Gemm"):
        raise LoweringError(
            "the graph does not end with GlobalAveragePool, Flatten and Gemm, as a DLA needs; use the GPU"
        )
    weight = index.constants[gemm.input[1]]
    weight.dims.extend([1, 1])
    planes = f"{OUTPUT}.planes"
    window = _spatial_size(graph.model, pool.input[0])
    new = {
        pool.name: helper.make_node(
            "AveragePool", pool.input, pool.output, name=pool.name, kernel_shape=window, count_include_pad=1
        ),
        flatten.name: helper.make_node(
            "Conv", [pool.output[0], *gemm.input[1:]], [planes], name=gemm.name, kernel_shape=[1, 1]
        ),
        gemm.name: helper.make_node("Flatten", [planes], [OUTPUT], name=flatten.name, axis=1),
    }
    nodes = [new.get(node.name, node) for node in changed.graph.node]
    return replace(graph, model=model_like(changed, nodes, list(changed.graph.initializer)))


def _spatial_size(model: onnx.ModelProto, tensor: str) -> list[int]:
    """(height, width) of a tensor ``(N, channels, height, width)``."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = {value.name: value.type.tensor_type.shape.dim for value in inferred}
    return [dim.dim_value for dim in shapes[tensor][2:]]
