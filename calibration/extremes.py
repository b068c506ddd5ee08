"""What calibration images show while the graph runs: the extremes of every channel, and the logits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge.calibration.histogram import Extremes, extremes
from googlenet_edge.calibration.placement import measured_tensors
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.session import Image, Network, open_session, side_by_side
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph

_SMALLEST_RANGE = 1e-30  # far above where float32 scales lose their digits
_PLANES = "channels.by.values"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelExtremes:
    """The smallest and the largest value of every channel of a tensor, float32 ``(channels,)``.

    Those of each of some images are ``(images, channels)``.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @property
    def magnitudes(self) -> NDArray[np.float32]:
        """The largest absolute value of every channel."""
        return np.maximum(-self.low, self.high)

    @property
    def whole(self) -> Extremes:
        """The extremes of the whole tensor."""
        return extremes(np.concatenate([self.low, self.high]))

    @property
    def ranges(self) -> Ranges:
        """What min/max makes of the whole tensor."""
        low, high = min(self.whole.minimum, 0.0), max(self.whole.maximum, 0.0)
        return Ranges(low, high, max(-low, high))

    def __or__(self, other: ChannelExtremes) -> ChannelExtremes:
        """The extremes of both."""
        return ChannelExtremes(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def __mul__(self, factor: NDArray[np.float64]) -> ChannelExtremes:
        """The extremes of the channels times ``factor``, which is above zero."""
        return ChannelExtremes((self.low * factor).astype(np.float32), (self.high * factor).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one image showed.

    Attributes:
        extremes: of each measured tensor.
        logits: float32 ``(1, classes)``.
        values: float32 ``(1, channels, …)`` of the tensors that were asked for.
    """

    extremes: Mapping[str, ChannelExtremes]
    logits: NDArray[np.float32]
    values: Mapping[str, NDArray[np.float32]]


class Observer:
    """Runs a graph for the extremes of its measured tensors, its logits, and the values of some tensors.

    Of planes that a ReLU made, the smallest value is taken for zero, which their grid reaches down to anyway: to look
    for it would take as long as to look for the largest.
    """

    def __init__(self, graph: InferenceGraph, tensors: Sequence[str] = ()) -> None:
        """Opens the graph."""
        self._graph = graph
        self._tensors = tensors
        self._measured = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
        self._from_zero = _relu_planes(graph.model.graph)
        lows = [_low(name) for name in self._measured if name not in self._from_zero]
        inner = [name for name in tensors if name != INPUT]
        self._wanted = [OUTPUT, *inner, *lows, *map(_high, self._measured)]
        model = _with_extremes(graph.model, self._measured, self._from_zero)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        self._session = open_session(model, threads=1)

    def observe(self, image: Image) -> Observation:
        """What one image shows, float32 ``(1, 3, crop, crop)`` after preprocessing. From any number of threads at once.

        The runtime loses a NaN among the values that it reduces. One that reaches the logits, or the values that were
        asked for, is refused here.

        Raises:
            CalibrationError: an activation is not finite.
        """
        found = dict(zip(self._wanted, self._session.run(self._wanted, {INPUT: image}), strict=True))
        if not np.isfinite(found[OUTPUT]).all():
            raise _not_finite(self._graph, image)
        values = {name: image if name == INPUT else found[name] for name in self._tensors}
        require_finite({name: extremes(each) for name, each in values.items()})
        seen = {INPUT: ChannelExtremes(image.min(axis=(0, 2, 3)), image.max(axis=(0, 2, 3)))}
        for name in self._measured:
            high = found[_high(name)].reshape(-1)
            low = np.zeros_like(high) if name in self._from_zero else found[_low(name)].reshape(-1)
            seen[name] = ChannelExtremes(low, high)
        return Observation(seen, found[OUTPUT], values)


def observations(graph: InferenceGraph, images: Iterable[Image]) -> Iterator[Observation]:
    """What each image shows; see `Observer`."""
    return side_by_side(Observer(graph).observe, images)


def joined(each: Iterable[Mapping[str, ChannelExtremes]]) -> dict[str, ChannelExtremes]:
    """The extremes of the tensors of one graph over all that is given."""
    found = dict[str, ChannelExtremes]()
    for seen in each:
        for name, channels in seen.items():
            found[name] = found[name] | channels if name in found else channels
    return found


def flat(seen: Mapping[str, ChannelExtremes]) -> NDArray[np.float32]:
    """What one image showed in one piece, as hundreds are kept cheaply; see `stacked`."""
    return np.concatenate([bound for each in seen.values() for bound in (each.low, each.high)])


def stacked(rows: Sequence[NDArray[np.float32]], like: Mapping[str, ChannelExtremes]) -> dict[str, ChannelExtremes]:
    """The inverse of `flat` for some images: extremes ``(images, channels)`` of tensors that are ``like`` these."""
    ends = np.cumsum([bound.size for each in like.values() for bound in (each.low, each.high)])
    parts = np.split(np.stack(rows), ends[:-1], axis=1)
    return {n: ChannelExtremes(*pair) for n, pair in zip(like, zip(parts[::2], parts[1::2], strict=True), strict=True)}


def rarest(peaks: Mapping[str, ChannelExtremes], count: int) -> list[int]:
    """The images that come closest to the largest magnitudes of all, in the mean over tensors, the closest first.

    Args:
        peaks: the extremes of each image, and last those of all of them.
    """
    magnitudes = [each.magnitudes.max(axis=1) for each in peaks.values()]
    shares = np.mean([each[:-1] / each[-1] for each in magnitudes], axis=0, dtype=np.float64)
    return [int(image) for image in np.argsort(-shares, kind="stable")[:count]]


def require_finite(seen: Mapping[str, Extremes]) -> None:
    """Refuses activations that are not finite. Raises `CalibrationError`."""
    for name, found in seen.items():
        if not np.isfinite([found.minimum, found.maximum]).all():
            raise CalibrationError(
                f"the activations of {name} go from {found.minimum} to {found.maximum}; the network's weights are"
                " damaged or its training diverged, use another checkpoint"
            )


def require_ranges(seen: Mapping[str, Extremes]) -> None:
    """Refuses tensors that cannot be given a grid, of one value everywhere: zero where a ReLU made it.

    Raises:
        CalibrationError: such a tensor, or one that is not finite.
    """
    require_finite(seen)
    for name, found in seen.items():
        if found.maximum - found.minimum < _SMALLEST_RANGE:
            raise CalibrationError(
                f"{name} is {found.minimum} everywhere on all calibration images; the network is dead there, or the"
                " images are of the wrong kind"
            )


def _relu_planes(graph: onnx.GraphProto) -> set[str]:
    """The outputs ``(1, channels, height, width)`` of ReLUs after convolutions, and the Concats of nothing but such.

    A ReLU after anything else may make another shape, which no global pool takes.
    """
    convolved, found = set[str](), set[str]()
    for node in graph.node:
        if node.op_type == "Conv":
            convolved.update(node.output)
        elif (node.op_type == "Relu" and node.input[0] in convolved) or (
            node.op_type == "Concat" and found.issuperset(node.input)
        ):
            found.update(node.output)
    return found


def _with_extremes(model: onnx.ModelProto, names: Sequence[str], relu_planes: AbstractSet[str]) -> onnx.ModelProto:
    """The model with the extremes of the channels of tensors ``(1, channels, …)`` as outputs, ``(1, channels, …)``.

    Its activations then stay in the runtime, which takes less memory and less time than to hand them out; and a global
    pool takes them in the order in memory that its convolutions like best.
    """
    found = copy.deepcopy(model)
    found.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), _PLANES))
    for name in names:
        planes, outputs = f"{name}.{_PLANES}", [_high(name)]
        if name in relu_planes:
            found.graph.node.append(helper.make_node("GlobalMaxPool", [name], outputs))
        else:
            outputs.append(_low(name))
            found.graph.node.append(helper.make_node("Reshape", [name, _PLANES], [planes]))
            for operator, output in zip(("ReduceMax", "ReduceMin"), outputs, strict=True):
                found.graph.node.append(helper.make_node(operator, [planes], [output], axes=[2], keepdims=0))
        found.graph.output.extend(onnx.ValueInfoProto(name=output) for output in outputs)
    return found


def _low(name: str) -> str:
    return f"{name}.lowest"


def _high(name: str) -> str:
    return f"{name}.highest"


def _not_finite(graph: InferenceGraph, image: Image) -> CalibrationError:
    """What to say of an image whose logits are not finite: the tensor where that begins, where it can be told."""
    try:
        require_finite({name: extremes(values) for name, values in Network(graph).activations(image)})
    except CalibrationError as problem:
        return problem
    return CalibrationError("the logits of a calibration image are not finite; the weights are damaged, use others")
