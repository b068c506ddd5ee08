"""The first look at calibration images: the extremes of every channel, found while the graph runs, and the logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
_REDUCED = ("ReduceMin", "ReduceMax")


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


def look(graph: InferenceGraph, images: Iterable[Image]) -> Look:
    """What images show, float32 ``(1, 3, crop, crop)`` after preprocessing.

    The runtime loses a NaN among the values that it reduces; one that reaches the logits is refused here.

    Raises:
        CalibrationError: logits that are not finite.
    """
    names = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
    wanted = [OUTPUT, *(_reduced(name, operator) for operator in _REDUCED for name in names)]
    session = open_session(_with_reductions(graph.model, names), threads=1)

    def seen(image: Image) -> tuple[dict[str, ChannelExtremes], NDArray[np.float32]]:
        logits, *reduced = session.run(wanted, {INPUT: image})
        if not np.isfinite(logits).all():
            raise _not_finite(graph, image)
        pairs = zip(names, reduced[: len(names)], reduced[len(names) :], strict=True)
        here = {INPUT: ChannelExtremes(image.min(axis=(0, 2, 3)), image.max(axis=(0, 2, 3)))}
        return here | {name: ChannelExtremes(low[0], high[0]) for name, low, high in pairs}, logits

    found, all_logits = dict[str, ChannelExtremes](), list[NDArray[np.float32]]()
    for here, logits in side_by_side(seen, images):
        found = joined_extremes(found, here)
        all_logits.append(logits)
    return Look(found, tuple(all_logits))


def joined_extremes(
    first: Mapping[str, ChannelExtremes], second: Mapping[str, ChannelExtremes]
) -> dict[str, ChannelExtremes]:
    """The extremes of all images of both; ``first`` may be empty."""
    return {name: first[name] | here if name in first else here for name, here in second.items()}


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


def _with_reductions(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with the extremes of the channels of tensors ``(1, channels, …)`` as outputs, ``(1, channels)``.

    Its activations then stay in the runtime, which takes less memory and less time than to hand them out.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    found.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), _PLANES))
    for name in names:
        planes = f"{name}.{_PLANES}"
        found.graph.node.append(helper.make_node("Reshape", [name, _PLANES], [planes]))
        for operator in _REDUCED:
            output = _reduced(name, operator)
            found.graph.node.append(helper.make_node(operator, [planes], [output], axes=[2], keepdims=0))
            found.graph.output.append(onnx.ValueInfoProto(name=output))
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
