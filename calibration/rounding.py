"""Weights rounded together: what rounding one of them does to a sum, those that are rounded after it take back.

Rounding every weight to its nearest code is best where the values that weights are multiplied with know nothing of each
other. They do: neighbouring pixels are alike, channels fire together, and the errors of weights that meet values of one
kind add up, or cancel. Here the codes of an output channel are chosen one after another, each as near as it gets to
what its weight and the errors before it ask for, so that the sums come out as they were.

Source: GPTQ, Frantar et al., arXiv 2210.17323, in the form of Babai's nearest plane, which is the same (Chen et al.,
arXiv 2507.18553).

`compensated` puts the float graph on those codes and corrects its biases: rounded weights shift the mean of what a
layer computes, b += (W - Wq) · E[x] takes the shift back. Source: Nagel et al., arXiv 1906.04721, section 4.2, with
means measured on images.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.session import side_by_side
from googlenet_edge.calibration.weights import LayerWeights, WeightRange, layer_weights
from googlenet_edge.calibration.windows import Moments, Triangle, Windows, windows_read
from googlenet_edge.graph import InferenceGraph

Means = Mapping[str, NDArray[np.float32]]
"""By the name of a convolution or classifier: the mean ``(n,)`` of the windows that its weights are multiplied with."""
Steps = Mapping[str, NDArray[np.int8]]
"""By the name of a convolution or classifier: how many codes each weight is off its nearest one."""

_BLOCK = 32


def rounding_steps(
    graph: InferenceGraph,
    ranges: Mapping[str, Ranges],
    moments: Mapping[Windows, Moments],
    weight_range: WeightRange,
) -> dict[str, NDArray[np.int8]]:
    """The steps of all layers that have windows. Layers that read the same ones are rounded in one go.

    Args:
        moments: of all windows of the graph.
    """
    read, readers = windows_read(graph), dict[Windows, list[LayerWeights]]()
    for layer in layer_weights(graph, ranges, weight_range):
        if windows := read.get(layer.node.name):
            readers.setdefault(windows, []).append(layer)

    def steps(windows: Windows) -> dict[str, NDArray[np.int8]]:
        layers, found = readers[windows], dict[str, NDArray[np.int8]]()
        rows = [_over_scale(layer) for layer in layers]
        codes = rounded_together(np.concatenate(rows), moments[windows].triangle, largest=weight_range.value)
        parts = np.split(codes, np.cumsum([len(each) for each in rows])[:-1])
        for layer, part in zip(layers, parts, strict=True):
            nearest = layer.nearest.codes
            found[layer.node.name] = np.clip(part.reshape(nearest.shape) - nearest, -127, 127).astype(np.int8)
        return found

    return {name: each for found in side_by_side(steps, readers) for name, each in found.items()}


def _over_scale(layer: LayerWeights) -> NDArray[np.float32]:
    """The weight in codes, not rounded: float32 ``(output channels, n)``."""
    rows = layer.weight.reshape(len(layer.weight), -1).astype(np.float64)
    return (rows / layer.nearest.scale[:, None]).astype(np.float32)


def rounded_together(rows: NDArray[np.float32], values: Triangle, *, largest: int) -> NDArray[np.float32]:
    """Codes for weights, so that little is left of the variance that rounding adds to their sums with values.

    With the `Triangle`'s ``C = L D Lᵀ``, the errors ``e`` of a row add the variance ``e C e``, the sum of
    ``d[j] · (e[j] + Σ e[i] L[i, j] for i > j)²``. So from the last weight to the first, each takes the code that is
    nearest to itself plus ``Σ e[i] L[i, j]``. The largest weight of a row keeps its code, and so the row its scale. It
    is the covariance and not ``E[x xᵀ]``, since the bias takes back what errors do to the mean (see `compensate`).

    Args:
        rows: float32 ``(rows, n)``, weights over their scale.
        values: how the n values that they are multiplied with move together.
        largest: the largest code.

    Returns:
        float32 ``(rows, n)``: whole numbers from ``-largest`` to ``largest``.
    """
    weights, factor = rows.T[values.order], values.factor[values.order, None]
    nearest = np.rint(weights)
    rows_kept_at: dict[int, list[int]] = {}
    for row, i in enumerate(np.abs(weights).argmax(axis=0).tolist()):
        rows_kept_at.setdefault(i, []).append(row)
    codes, errors = np.empty_like(weights), np.zeros_like(weights)  # errors times their values' factors
    for stop in range(len(weights), 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        asked = weights[start:stop] + values.lower[stop:, start:stop].T @ errors[stop:] / factor[start:stop]
        within = np.ascontiguousarray(values.lower[start:stop, start:stop].T) / factor[start:stop]
        for i in range(stop - 1, start - 1, -1):
            near = np.rint(asked[i - start] + within[i - start, i - start + 1 :] @ errors[i + 1 : stop])
            np.minimum(np.maximum(near, -largest, out=near), largest, out=codes[i])
            if i in rows_kept_at:
                codes[i, rows_kept_at[i]] = nearest[i, rows_kept_at[i]]
            errors[i] = (weights[i] - codes[i]) * factor[i]
    in_order = np.empty_like(rows)
    in_order[:, values.order] = codes.T
    return in_order


def compensated(
    graph: InferenceGraph,
    ranges: Mapping[str, Ranges],
    *,
    steps: Steps,
    means: Means,
    weight_range: WeightRange = WeightRange.FULL,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> InferenceGraph:
    """The graph with the weights that have ``steps`` on their codes, and the biases that have ``means`` corrected.

    The nearest codes of its weights are then those codes.

    Raises:
        CalibrationError: a range is missing.
        ValueError: steps or means of another size than the weights, or of a layer that is not there.
    """
    layers = {node.name for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS}
    if strange := sorted((steps.keys() | means.keys()) - layers):
        raise ValueError(f"it has no layer {strange[0]}")
    changed = dict[str, NDArray[np.float32]]()
    for layer in layer_weights(graph, ranges, weight_range, float_nodes) if steps or means else []:
        name, (_, weight, bias) = layer.node.name, layer.node.input
        rounded = layer.rounded(steps.get(name))
        if name in steps:
            changed[weight] = rounded
        if name in means:
            errors = (layer.weight - rounded).reshape(len(rounded), -1)
            off = (errors.astype(np.float64) * means[name]).sum(axis=1)  # whatever the number of threads
            changed[bias] = (layer.bias + off).astype(np.float32)
    return graph.with_weights(changed)


def window_means(graph: InferenceGraph, moments: Mapping[Windows, Moments]) -> dict[str, NDArray[np.float32]]:
    """The means for all layers whose windows have moments."""
    return {name: moments[windows].mean for name, windows in windows_read(graph).items()}
