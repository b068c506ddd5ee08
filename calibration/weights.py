"""Weights and biases as integers: symmetric s8 per output channel, int32 biases on the grid of the products."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS, grids
from googlenet_edge.calibration.ranges import Ranges, u8_grid
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.processor import Processor

MAX_BIAS = 2.0**30  # half of int32: the sum of the products needs room too


class WeightRange(Enum):
    """The largest weight code."""

    FULL = 127
    REDUCED = 64


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """``weight[c] ≈ codes[c] · scale[c]`` and ``bias[c] ≈ bias_codes[c] · bias_scale[c]``.

    Attributes:
        codes: int8, the shape of the weight.
        scale: float32 ``(output channels,)``.
        bias_codes: int32 ``(output channels,)``.
        bias_scale: float32 ``(output channels,)``, the input's scale times ``scale``.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias_codes: NDArray[np.int32]
    bias_scale: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """A convolution or classifier of a graph: its weight ``(output channels, …)`` and bias, and their nearest codes."""

    node: onnx.NodeProto
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    nearest: QuantizedWeights
    weight_range: WeightRange

    def rounded(self, steps: NDArray[np.int8] | None) -> NDArray[np.float32]:
        """The weight on its grid, ``steps`` codes from the nearest ones but not beyond the last."""
        codes, largest = self.nearest.codes, self.weight_range.value
        if steps is not None:
            codes = np.clip(codes.astype(np.int16) + steps.reshape(codes.shape), -largest, largest)
        return codes * self.nearest.scale.reshape(-1, *[1] * (codes.ndim - 1))


def layer_weights(
    graph: InferenceGraph,
    ranges: Mapping[str, Ranges],
    weight_range: WeightRange,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> list[LayerWeights]:
    """The layers of a graph that are not among the float nodes. Raises `CalibrationError` where a range is missing."""
    weights, grid_of, found = graph.weights, grids(graph.model.graph), []
    for node in graph.model.graph.node:
        if node.op_type in WITH_WEIGHTS and node.name not in float_nodes:
            weight, bias = (weights[name] for name in node.input[1:])
            scale = u8_grid(ranges, grid_of[node.input[0]]).scale
            nearest = quantize_weights(weight, bias, input_scale=scale, weight_range=weight_range)
            found.append(LayerWeights(node, weight, bias, nearest, weight_range))
    return found


def quantize_weights(
    weight: NDArray[np.float32], bias: NDArray[np.float32], *, input_scale: np.float32, weight_range: WeightRange
) -> QuantizedWeights:
    """Quantizes a convolution's or a classifier's weight ``(output channels, …)`` and bias ``(output channels,)``.

    A channel's scale is its largest weight over the largest code, but at least so large that the bias fits: a channel
    of tiny weights and a large bias, as batch normalization leaves behind, is its bias almost alone.
    """
    for_weight = _largest(weight).astype(np.float64) / weight_range.value
    for_bias = np.abs(bias.astype(np.float64)) / (float(input_scale) * MAX_BIAS)
    scale = np.maximum(for_weight, for_bias).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0  # a channel of zeros: any scale is right
    bias_scale = input_scale * scale
    return QuantizedWeights(
        codes=_codes(weight, scale, weight_range),
        scale=scale,
        bias_codes=np.rint(bias / bias_scale.astype(np.float64)).astype(np.int32),
        bias_scale=bias_scale,
    )


def quantize_per_channel(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(codes, scale of every output channel) of a weight whose bias stays float: the finest grid that reaches it."""
    scale = (_largest(weight) / WeightRange.FULL.value).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    return _codes(weight, scale, WeightRange.FULL), scale


def _codes(weight: NDArray[np.float32], scale: NDArray[np.float32], weight_range: WeightRange) -> NDArray[np.int8]:
    codes = np.divide(weight.reshape(len(weight), -1), scale[:, None], dtype=np.float64)
    np.clip(np.rint(codes, out=codes), -weight_range.value, weight_range.value, out=codes)
    return codes.astype(np.int8).reshape(weight.shape)


def _largest(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest absolute value for each output channel, float32 ``(output channels,)``."""
    rows = weight.reshape(len(weight), -1)
    found: NDArray[np.float32] = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return found


def weight_range_for(processor: Processor) -> WeightRange:
    """What a processor multiplies without saturating: 7 bits where 8 overflow, since 2 · 255 · 64 < 2**15."""
    return WeightRange.REDUCED if processor.saturates_u8s8 else WeightRange.FULL
