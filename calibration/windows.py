"""What the weights of a layer are multiplied with: the windows of its input, their mean, and how they move together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from googlenet_edge.calibration.extremes import ChannelExtremes, Observer
from googlenet_edge.calibration.placement import WITH_WEIGHTS
from googlenet_edge.calibration.session import Image, side_by_side
from googlenet_edge.calibration.surgery import is_dense_conv
from googlenet_edge.graph import INPUT, InferenceGraph, attributes_of

_PER_IMAGE = 32
_MOST_VALUES = 4608  # of a window: 512 channels of 3×3
_LARGE = 2304  # values of windows whose covariances are decomposed one after another: each takes much memory
_AT_ONCE = 16  # images whose windows are added up together
_DAMPING = 0.01  # GPTQ's


@dataclass(frozen=True, slots=True)
class Windows:
    """Which windows of which tensor; layers that read the same ones share their `Moments`."""

    tensor: str
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def of(self, values: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
        """Some windows of float32 ``(1, channels, …)``, at random places: ``(channels × height × width, places)``.

        Rows are in the order of a weight's columns. Of a matrix ``(places, channels)``, which a classifier reads, each
        row is a window.
        """
        if values.ndim == 2:
            values = values.T[None, :, :]
        top, left, bottom, right = self.pads
        planes = values.reshape(*values.shape[1:], *[1] * (4 - values.ndim))
        padded = np.pad(planes, ((0, 0), (top, bottom), (left, right))) if any(self.pads) else planes
        views = sliding_window_view(padded, self.kernel, axis=(1, 2))[:, :: self.strides[0], :: self.strides[1]]
        height, width = views.shape[1:3]
        rows, columns = np.divmod(random.permutation(height * width)[:_PER_IMAGE], width)
        found: NDArray[np.float32] = views[:, rows, columns].transpose(0, 2, 3, 1).reshape(-1, len(rows))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The mean of windows of n values, float32 ``(n,)``, and the triangle of their covariance."""

    mean: NDArray[np.float32]
    triangle: Triangle

    def times(self, factor: NDArray[np.float64]) -> Moments:
        """Of windows whose channels are multiplied by ``factor`` ``(channels,)``."""
        each = np.repeat(factor, len(self.mean) // len(factor)).astype(np.float32)
        return Moments(self.mean * each, self.triangle.times(each))


def windows_read(graph: InferenceGraph) -> dict[str, Windows]:
    """By the name of a convolution or classifier, what it reads.

    Left out are a convolution with groups, dilation, or padding that is not written out, and one whose windows have
    more values than `_MOST_VALUES`, so that their covariance would not fit. So is the first layer where its colours
    have different deviations: `absorb_normalization` may divide its weights by them, which are then rounded otherwise.
    """
    weights, divided = graph.weights, len(set(graph.preprocess.std)) > 1
    found = dict[str, Windows]()
    for node in graph.model.graph.node:
        windows = windows_of(node, weights)
        if windows and not (divided and windows.tensor == INPUT):
            found[node.name] = windows
    return found


def windows_of(node: onnx.NodeProto, weights: Mapping[str, NDArray[np.float32]]) -> Windows | None:
    """What a convolution or classifier reads, if it is a plain one and not too large; see `windows_read`."""
    if node.op_type not in WITH_WEIGHTS or not (node.op_type == "Gemm" or is_dense_conv(node)):
        return None
    _, channels, *kernel = weights[node.input[1]].shape
    if channels * math.prod(kernel) > _MOST_VALUES:
        return None
    if not kernel:
        return Windows(node.input[0])
    written = attributes_of(node)
    strides, pads = written.get("strides", (1, 1)), written.get("pads", (0, 0, 0, 0))
    return Windows(node.input[0], (kernel[0], kernel[1]), tuple(strides), tuple(pads))


def window_moments(
    graph: InferenceGraph, images: Iterable[Image]
) -> tuple[dict[Windows, Moments], list[Mapping[str, ChannelExtremes]]]:
    """The moments of all windows that weights of the graph are applied to, and the extremes of each of the images.

    Moments are from `_PER_IMAGE` places of each image. The same images in the same order give the same bytes.

    Args:
        images: float32 ``(1, 3, crop, crop)`` after preprocessing.

    Raises:
        CalibrationError: an activation is not finite.
    """
    wanted = list(dict.fromkeys(windows_read(graph).values()))
    observer = Observer(graph, sorted({windows.tensor for windows in wanted}))

    def seen(numbered: tuple[int, Image]) -> tuple[Mapping[str, ChannelExtremes], list[NDArray[np.float32]]]:
        number, image = numbered
        found, random = observer.observe(image), np.random.default_rng(number)
        return found.extremes, [windows.of(found.values[windows.tensor], random) for windows in wanted]

    def add(one: tuple[Windows, Sequence[NDArray[np.float32]]]) -> None:
        windows, parts = one
        values = np.concatenate(parts, axis=1)
        if windows not in sums:
            sums[windows] = _Sums(values)
        sums[windows].add(values)

    extremes, sums, numbered = list[Mapping[str, ChannelExtremes]](), dict[Windows, _Sums](), zip(count(), images)
    while some := list(islice(numbered, _AT_ONCE)):
        # to the end: products and runs would hinder each other
        of_extremes, of_windows = zip(*side_by_side(seen, some), strict=True)
        extremes += of_extremes
        for _ in side_by_side(add, zip(wanted, zip(*of_windows, strict=True), strict=True)):
            pass
    small, large = ([w for w in wanted if (sums[w].values > _LARGE) == where] for where in (False, True))
    found = dict(zip(small, side_by_side(lambda windows: sums.pop(windows).moments(), small), strict=True))
    return found | {windows: sums.pop(windows).moments() for windows in large}, extremes


class _Sums:
    """Sums of windows and of their products, both less the mean of the first, so that float32 is fine enough."""

    def __init__(self, first: NDArray[np.float32]) -> None:
        """Of windows ``(n, places)``."""
        self._middle = first.mean(axis=1, keepdims=True)
        self._count = 0
        self._sum = np.zeros(len(first), np.float64)
        self._products = np.zeros((len(first), len(first)), np.float32)

    @property
    def values(self) -> int:
        """The n."""
        return len(self._sum)

    def add(self, values: NDArray[np.float32]) -> None:
        """Windows ``(n, places)``."""
        off = values - self._middle
        self._count += off.shape[1]
        self._sum += off.sum(axis=1, dtype=np.float64)
        self._products += off @ off.T

    def moments(self) -> Moments:
        """Those of all that was added; nothing can be added then."""
        off = (self._sum / self._count).astype(np.float32)
        self._products /= np.float32(self._count)
        self._products -= np.multiply.outer(off, off)
        return Moments(self._middle.reshape(-1) + off, triangle_of(self._products))


@dataclass(frozen=True, slots=True, eq=False)
class Triangle:
    """The covariance of n values times their ``factor``, as ``C = L D Lᵀ`` with ones on the diagonal of L.

    Attributes:
        order: intp ``(n,)``, that of the rows of L: values that vary least come first.
        lower: float32 ``(n, n)``: L, of the values without their factor.
        factor: float32 ``(n,)``, all above zero.
    """

    order: NDArray[np.intp]
    lower: NDArray[np.float32]
    factor: NDArray[np.float32]

    def times(self, factor: NDArray[np.float32]) -> Triangle:
        """Of the values times ``factor`` ``(n,)``. L is the same: its element i, j goes with factor i over factor j."""
        return replace(self, factor=self.factor * factor)


def triangle_of(covariance: NDArray[np.floating]) -> Triangle:
    """The triangle of ``(n, n)``, with some noise of its own in every value, the same in all before any factor.

    That of values that know nothing of each other, where it is no covariance: of values that never change, or are not
    finite.
    """
    variance = covariance.diagonal()
    order, ones = np.argsort(variance, kind="stable"), np.ones(len(variance), np.float32)
    noise = _DAMPING * float(variance.mean(dtype=np.float64))
    if 0 < noise < np.inf:
        damped = covariance.take(order, axis=0).take(order, axis=1).astype(np.float64)
        damped[np.diag_indices_from(damped)] += noise
        try:
            lower = np.linalg.cholesky(damped)
            lower /= lower.diagonal().copy()
            return Triangle(order, lower.astype(np.float32), ones)
        except np.linalg.LinAlgError:
            pass
    return Triangle(order, np.eye(len(variance), dtype=np.float32), ones)
