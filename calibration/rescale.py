"""Channel rescale: the same function, with channels that fill the grid that they share.

A tensor has one grid, as coarse as its largest channel asks for; a channel that reaches a tenth of it is left with a
tenth of the codes. Convolution, ReLU, pooling and Concat are positively homogeneous channel by channel, so a channel
may be multiplied by any positive factor where it is made (a row of weights and its bias, which have a scale of their
own in INT8 and so lose nothing) when all that read it divide their column of weights by the same factor: through pools,
through Concat, into every branch of the next block. Larger factors leave less noise in activations and more in weights.

Source: cross-layer equalization, Nagel et al., arXiv 1906.04721, section 4.1, carried through Concat.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.extremes import ChannelExtremes
from googlenet_edge.calibration.placement import WITH_WEIGHTS, grids
from googlenet_edge.calibration.windows import Moments, Windows
from googlenet_edge.graph import InferenceGraph

Factors = Mapping[str, NDArray[np.float32]]
"""For each convolution that is rescaled, by name: float32 ``(output channels,)``, all above zero."""

LARGEST_FACTOR = 64.0
_DEAD = 1e-6
_CHANNELWISE = ("Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")


def rescale_factors(
    graph: InferenceGraph, seen: Mapping[str, ChannelExtremes], *, strength: float
) -> dict[str, NDArray[np.float32]]:
    """The factors of all convolutions: ``(maximum of the grid / own maximum) ** strength``, at most `LARGEST_FACTOR`.

    They are 1 where something reads the channels that is not homogeneous, and for channels that are (nearly) always 0.

    Args:
        seen: from `extremes.joined`.
        strength: 0 changes nothing, 1 lets every channel fill its grid.
    """
    source, flow = graph.model.graph, _Flow(graph)
    factors = {name: np.ones(channels, np.float32) for name, channels in flow.channels.items()}
    grid_of = grids(source)
    for node in source.node:
        tensor = node.output[0]
        makers = flow.makers.get(tensor, ())
        if node.op_type != "Relu" or len(makers) != 1 or makers[0] in flow.pinned or tensor not in grid_of:
            continue
        own, whole = (seen[name].magnitudes.astype(np.float64) for name in (tensor, grid_of[tensor]))
        ratio = np.divide(whole.max(), own, out=np.ones_like(own), where=own > whole.max() * _DEAD)
        factors[makers[0]] = np.clip(ratio**strength, 1.0, LARGEST_FACTOR).astype(np.float32)
    return factors


def rescaled(graph: InferenceGraph, factors: Factors) -> InferenceGraph:
    """The graph with rescaled channels: the same logits but for the rounding of float32."""
    flow = _Flow(graph)
    weighted = {name for node in graph.model.graph.node if node.op_type in WITH_WEIGHTS for name in node.input[1:]}
    weights = {name: value.astype(np.float64) for name, value in graph.weights.items() if name in weighted}
    for node in graph.model.graph.node:
        if node.name in flow.unmixed:
            weights[node.input[1]] /= _along(1, flow.factor(node.input[0], factors), weights[node.input[1]])
        if node.op_type == "Conv":
            for name in node.input[1:]:
                weights[name] *= _along(0, factors[node.name].astype(np.float64), weights[name])
    return graph.with_weights({name: value.astype(np.float32) for name, value in weights.items()})


def rescaled_extremes(
    graph: InferenceGraph, seen: Mapping[str, ChannelExtremes], factors: Factors
) -> dict[str, ChannelExtremes]:
    """What `extremes.joined` or `extremes.stacked` would give for the rescaled graph."""
    flow = _Flow(graph)
    return {n: found * flow.factor(n, factors) if n in flow.makers else found for n, found in seen.items()}


def rescaled_moments(
    graph: InferenceGraph, seen: Mapping[Windows, Moments], factors: Factors
) -> dict[Windows, Moments]:
    """What `window_moments` would give for the rescaled graph."""
    flow = _Flow(graph)
    return {w: m.times(flow.factor(w.tensor, factors)) if w.tensor in flow.makers else m for w, m in seen.items()}


def _along(axis: int, factor: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """A factor ``(n,)`` in the shape that multiplies one axis of a weight."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    return factor.reshape(shape)


class _Flow:
    """Where the channels of each tensor come from.

    ``makers``: for each tensor whose channels reach it unmixed, the convolutions that made them, in the order of the
    channels. ``channels``: how many each convolution makes. ``pinned``: those with a reader that is not homogeneous.
    ``unmixed``: the convolutions and classifiers that have a column of weights for each channel that reaches them.
    """

    def __init__(self, graph: InferenceGraph) -> None:
        source = graph.model.graph
        shapes = {w.name: tuple(w.dims) for w in source.initializer}
        self.channels = {n.name: shapes[n.input[1]][0] for n in source.node if n.op_type == "Conv"}
        self.makers: dict[str, tuple[str, ...]] = {}
        self.pinned: set[str] = set()
        self.unmixed: set[str] = set()
        for node in source.node:
            self._follow(node, shapes)
        for output in source.output:
            self.pinned.update(self.makers.get(output.name, ()))

    def factor(self, tensor: str, factors: Factors) -> NDArray[np.float64]:
        """float64 ``(channels,)`` of a tensor in ``makers``."""
        return np.concatenate([factors[maker] for maker in self.makers[tensor]]).astype(np.float64)

    def _follow(self, node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
        read = [self.makers.get(name) for name in node.input]
        if node.op_type in WITH_WEIGHTS:
            let_through = read[0] is not None and self._count(read[0]) == shapes[node.input[1]][1]
            if let_through:
                self.unmixed.add(node.name)
            if node.op_type == "Conv":
                self.makers[node.output[0]] = (node.name,)
        else:
            let_through = _channelwise(node) and None not in read
            if let_through:
                self.makers[node.output[0]] = tuple(maker for makers in read for maker in makers or ())
        if not let_through:
            self.pinned.update(maker for makers in read for maker in makers or ())

    def _count(self, makers: tuple[str, ...]) -> int:
        return sum(self.channels[maker] for maker in makers)


def _channelwise(node: onnx.NodeProto) -> bool:
    if node.op_type == "Concat":
        return any(a.name == "axis" and a.i == 1 for a in node.attribute)
    return node.op_type in _CHANNELWISE
