"""Weights and biases as integers: symmetric s8 per output channel, int32 biases on the grid of the products."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

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


def quantize_weights(
    weight: NDArray[np.float32], bias: NDArray[np.float32], *, input_scale: np.float32, weight_range: WeightRange
) -> QuantizedWeights:
    """Quantizes a convolution's or a classifier's weight ``(output channels, …)`` and bias ``(output channels,)``.

    A channel's scale is its largest weight over the largest code, but at least so large that the bias fits: a channel
    of tiny weights and a large bias, as batch normalization leaves behind, is its bias almost alone.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    for_weight = np.abs(rows).max(axis=1) / weight_range.value
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
    scale = (np.abs(weight.reshape(len(weight), -1)).max(axis=1) / WeightRange.FULL.value).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0
    return _codes(weight, scale, WeightRange.FULL), scale


def _codes(weight: NDArray[np.float32], scale: NDArray[np.float32], weight_range: WeightRange) -> NDArray[np.int8]:
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    codes = np.clip(np.rint(rows / scale[:, None]), -weight_range.value, weight_range.value)
    return codes.astype(np.int8).reshape(weight.shape)


def weight_range_for(processor: Processor) -> WeightRange:
    """What a processor multiplies without saturating: 7 bits where 8 overflow, since 2 · 255 · 64 < 2**15."""
    return WeightRange.REDUCED if processor.saturates_u8s8 else WeightRange.FULL
