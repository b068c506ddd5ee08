"""The first look at calibration images: the extremes of every channel, found while the graph runs, and the logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from googlenet_edge.calibration.histogram import Extremes, extremes
from googlenet_edge.calibration.network import Image, Network
from googlenet_edge.calibration.placement import measured_tensors
from googlenet_edge.calibration.ranges import Ranges
from googlenet_edge.calibration.session import open_session, side_by_side
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph

_SMALLEST_RANGE = 1e-30  # far above where float32 scales lose their digits
_PLANES = "channels.by.values"
_LOW, _HIGH = "ReduceMin", "ReduceMax"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelExtremes:
    """The smallest and the largest value of every channel of a tensor, float32 ``(channels,)``."""

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
class Look:
    """What images showed: the extremes of each measured tensor, and the logits of each, float32 ``(1, classes)``."""

    extremes: Mapping[str, ChannelExtremes]
    logits: tuple[NDArray[np.float32], ...]

    def __or__(self, other: Look) -> Look:
        """What both showed, of one graph; one of them may have seen nothing."""
        known = self.extremes
        joined = {name: known[name] | found if name in known else found for name, found in other.extremes.items()}
        return Look({**known, **joined}, self.logits + other.logits)


class Looking:
    """A graph that is run for what images show, and for the values of ``tensors``, if any.

    What follows a convolution and a ReLU is taken to reach down to zero: that is its grid's, and takes half the time.
    The runtime loses a NaN among the values that it reduces; one that reaches the logits is refused here.
    """

    def __init__(self, graph: InferenceGraph, tensors: Sequence[str] = ()) -> None:
        """Opens the graph."""
        self._graph = graph
        self._tensors = [name for name in tensors if name != INPUT]
        self._names = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
        self._from_zero = _planes_from_zero(graph.model.graph)
        lows = [_reduced(name, _LOW) for name in self._names if name not in self._from_zero]
        self._wanted = [OUTPUT, *self._tensors, *lows, *(_reduced(name, _HIGH) for name in self._names)]
        model = _with_reductions(graph.model, self._names, self._from_zero)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._tensors)
        self._session = open_session(model, threads=1)

    def at(self, image: Image) -> tuple[Look, dict[str, NDArray[np.float32]]]:
        """What one image shows, and the values of the tensors. From any number of threads at once.

        Raises:
            CalibrationError: logits that are not finite.
        """
        found = dict(zip(self._wanted, self._session.run(self._wanted, {INPUT: image}), strict=True))
        if not np.isfinite(found[OUTPUT]).all():
            raise _not_finite(self._graph, image)
        extremes = {INPUT: ChannelExtremes(image.min(axis=(0, 2, 3)), image.max(axis=(0, 2, 3)))}
        for name in self._names:
            high = found[_reduced(name, _HIGH)].reshape(-1)
            low = np.zeros_like(high) if name in self._from_zero else found[_reduced(name, _LOW)].reshape(-1)
            extremes[name] = ChannelExtremes(low, high)
        return Look(extremes, (found[OUTPUT],)), {INPUT: image} | {name: found[name] for name in self._tensors}


def looks(graph: InferenceGraph, images: Iterable[Image]) -> Iterator[Look]:
    """What each image shows, float32 ``(1, 3, crop, crop)`` after preprocessing.

    Raises:
        CalibrationError: logits that are not finite.
    """
    looking = Looking(graph)
    return side_by_side(lambda image: looking.at(image)[0], images)


def look(graph: InferenceGraph, images: Iterable[Image]) -> Look:
    """What images show together; see `looks`."""
    return together(looks(graph, images))


def together(each: Iterable[Look]) -> Look:
    """What all of them showed, of one graph."""
    return reduce(or_, each, Look({}, ()))


def require_finite(seen: Mapping[str, Extremes]) -> None:
    """Refuses activations that are not finite. Raises `CalibrationError`."""
    for name, found in seen.items():
        if not np.isfinite([found.minimum, found.maximum]).all():
            raise CalibrationError(
                f"the activations of {name} go from {found.minimum} to {found.maximum}; the network's weights are"
                " damaged or its training diverged, use another checkpoint"
            )


def require_ranges(seen: Mapping[str, Extremes]) -> None:
    """Refuses tensors that cannot be given a grid. Raises `CalibrationError`."""
    require_finite(seen)
    for name, found in seen.items():
        if found.maximum - found.minimum < _SMALLEST_RANGE:
            raise CalibrationError(
                f"{name} is {found.minimum} everywhere on all calibration images; the network is dead there, or the"
                " images are of the wrong kind"
            )


def _planes_from_zero(graph: onnx.GraphProto) -> set[str]:
    """The tensors ``(1, channels, height, width)`` that come out of a ReLU, or that a Concat makes of such."""
    convolved, found = set[str](), set[str]()
    for node in graph.node:
        if node.op_type == "Conv":
            convolved.update(node.output)
        elif (node.op_type == "Relu" and node.input[0] in convolved) or (
            node.op_type == "Concat" and found.issuperset(node.input)
        ):
            found.update(node.output)
    return found


def _with_reductions(
    model: onnx.ModelProto, names: Sequence[str], planes_from_zero: AbstractSet[str]
) -> onnx.ModelProto:
    """The model with the extremes of the channels of tensors ``(1, channels, …)`` as outputs, ``(1, channels, …)``.

    Its activations then stay in the runtime, which takes less memory and less time than to hand them out. A global
    pool leaves them in the order that its convolutions like best.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), _PLANES))
    for name in names:
        planes, low, high = f"{name}.{_PLANES}", _reduced(name, _LOW), _reduced(name, _HIGH)
        if name in planes_from_zero:
            found.graph.node.append(helper.make_node("GlobalMaxPool", [name], [high]))
        else:
            found.graph.node.append(helper.make_node("Reshape", [name, _PLANES], [planes]))
            for operator, output in ((_LOW, low), (_HIGH, high)):
                found.graph.node.append(helper.make_node(operator, [planes], [output], axes=[2], keepdims=0))
            found.graph.output.append(onnx.ValueInfoProto(name=low))
        found.graph.output.append(onnx.ValueInfoProto(name=high))
    return found


def _reduced(name: str, operator: str) -> str:
    return f"{name}.{operator}"


def _not_finite(graph: InferenceGraph, image: Image) -> CalibrationError:
    """What to say of an image whose logits are not finite: the tensor where that begins, where it can be told."""
    try:
        require_finite({name: extremes(values) for name, values in Network(graph).activations(image)})
    except CalibrationError as problem:
        return problem
    return CalibrationError("the logits of a calibration image are not finite; the weights are damaged, use others")
