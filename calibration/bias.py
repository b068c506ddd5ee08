"""Bias correction: rounded weights shift the mean of what a layer computes; its bias takes the shift back.

The shift is the error of the weights times the mean of the layer's input: b += (W - Wq) · E[x].
Source: Nagel et al., arXiv 1906.04721, section 4.2, with means measured on images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import NO_NODES, WITH_WEIGHTS
from googlenet_edge.calibration.session import open_session
from googlenet_edge.graph import INPUT, InferenceGraph

Rounded = Callable[[onnx.NodeProto], NDArray[np.float32]]
"""The weights of a node as INT8 holds them, in float and of the same shape."""
Means = Mapping[str, NDArray[np.float32]]


def bias_corrections(
    graph: InferenceGraph,
    rounded: Rounded,
    means: Means,
    *,
    float_nodes: AbstractSet[str] = NO_NODES,
) -> dict[str, NDArray[np.float32]]:
    """What to add to the biases: float32 ``(output channels,)`` by the name of the convolution or classifier.

    Args:
        means: see `channel_means`.
        float_nodes: names of nodes whose weights are not rounded.
    """
    weights, corrections = graph.weights, {}
    for node in with_weights(graph, float_nodes):
        error = weights[node.input[1]].astype(np.float64) - rounded(node)
        by_channel = error.reshape(*error.shape[:2], -1).sum(axis=2)
        mean = means[node.input[0]]
        if by_channel.shape[1] == len(mean):  # else the convolution is grouped
            corrections[node.name] = (by_channel @ mean).astype(np.float32)
    return corrections


def corrected(graph: InferenceGraph, corrections: Mapping[str, NDArray[np.float32]]) -> InferenceGraph:
    """The graph with corrections added to the biases of the named nodes."""
    weights = graph.weights
    bias_of = {node.name: node.input[2] for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS}
    return graph.with_weights({bias_of[name]: weights[bias_of[name]] + value for name, value in corrections.items()})


def with_weights(graph: InferenceGraph, float_nodes: AbstractSet[str] = NO_NODES) -> list[onnx.NodeProto]:
    """The convolutions and classifiers that are not among the float nodes."""
    return [node for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS and node.name not in float_nodes]


def channel_means(graph: InferenceGraph, images: Iterable[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The mean of every channel of the tensors that weights are applied to: float32 ``(channels,)`` by their names.

    Args:
        images: float32 ``(1, 3, crop, crop)`` after preprocessing.
    """
    names = sorted({node.input[0] for node in with_weights(graph)} - {INPUT})
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(model)
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for image in images:
        for name, values in zip([INPUT, *names], [image, *session.run(names, {INPUT: image})], strict=True):
            mean = values[0].reshape(values.shape[1], -1).mean(axis=1, dtype=np.float64)
            sums[name] = sums[name] + mean if name in sums else mean
        count += 1
    return {name: (value / count).astype(np.float32) for name, value in sums.items()}
