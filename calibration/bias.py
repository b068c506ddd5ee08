"""Bias correction: rounded weights shift the mean of what a layer computes; its bias takes the shift back.

The shift is the error of the weights times the mean of the layer's input: b += (W - Wq) · E[x].
Source: Nagel et al., arXiv 1906.04721, section 4.2, with means measured on images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import WITH_WEIGHTS
from googlenet_edge.graph import INPUT, InferenceGraph

Rounded = Callable[[onnx.NodeProto], NDArray[np.float32]]
"""The weights of a node as INT8 holds them, in float and of the same shape."""


def bias_corrections(
    graph: InferenceGraph, rounded: Rounded, images: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What to add to the biases: float32 ``(output channels,)`` by the name of the convolution or classifier.

    Args:
        images: float32 ``(1, 3, crop, crop)`` after preprocessing.
    """
    nodes = [node for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS]
    means, weights = _channel_means(graph, {node.input[0] for node in nodes}, images), graph.weights
    corrections = {}
    for node in nodes:
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


def _channel_means(
    graph: InferenceGraph, tensors: Iterable[str], images: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """The mean of every channel of some tensors, float64 ``(channels,)``."""
    names = sorted(set(tensors) - {INPUT})
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for image in images:
        for name, values in zip([INPUT, *names], [image, *session.run(names, {INPUT: image})], strict=True):
            mean = values[0].reshape(values.shape[1], -1).mean(axis=1, dtype=np.float64)
            sums[name] = sums[name] + mean if name in sums else mean
        count += 1
    return {name: value / count for name, value in sums.items()}
