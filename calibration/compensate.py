"""The float graph as it goes to its codes: every weight on the one that is to be its own, and biases corrected.

Rounded weights shift the mean of what a layer computes; its bias takes the shift back. The shift is the error of the
weights times the mean of what they are multiplied with: b += (W - Wq) · E[x].
Source: Nagel et al., arXiv 1906.04721, section 4.2, with means measured on images.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.rounding import Steps
from googlenet_edge.calibration.weights import WeightRange, layer_weights
from googlenet_edge.calibration.windows import Moments, Windows, windows_read
from googlenet_edge.graph import InferenceGraph

Means = Mapping[str, NDArray[np.float32]]
"""By the name of a convolution or classifier: the mean ``(n,)`` of the windows that its weights are multiplied with."""


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
            changed[bias] = (layer.bias + errors @ means[name]).astype(np.float32)
    return graph.with_weights(changed)


def window_means(graph: InferenceGraph, moments: Mapping[Windows, Moments]) -> dict[str, NDArray[np.float32]]:
    """The means for all layers whose windows have moments."""
    return {name: moments[windows].mean for name, windows in windows_read(graph).items()}
