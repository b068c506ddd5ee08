"""Runs the FP32 graph on calibration images, one a run and twice over: for the extremes, then for the histograms.

Memory does not grow with the number of images. With one image a run, activations do not depend on what else is in a
batch, so the statistics are the same whatever the order of the images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from queue import Empty, SimpleQueue

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.histogram import Extremes, Histogram, HistogramCounter, Scratch, extremes
from googlenet_edge.calibration.placement import measured_tensors
from googlenet_edge.calibration.session import open_session, side_by_side
from googlenet_edge.dataset import Progress
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import INPUT, InferenceGraph

Images = Callable[[], Iterable[NDArray[np.float32]]]

MIN_IMAGES = 8  # below this a range says more of the images than of the network; hundreds are usual
_SMALLEST_RANGE = 1e-30  # far above where float32 scales lose their digits


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the images showed: a histogram for every tensor that needs a range, in the graph's order."""

    images: int
    histograms: dict[str, Histogram]


def collect(graph: InferenceGraph, images: Images, *, count: int, progress: Progress | None = None) -> Statistics:
    """The statistics of a graph's activations.

    Args:
        images: called twice; gives float32 ``(1, 3, crop, crop)`` images after preprocessing, the same both times.
        count: how many images it gives, for the progress of the first pass.
        progress: told (runs done, runs in total); every image is run twice.

    Raises:
        CalibrationError: fewer than `MIN_IMAGES` different images with content, an image of another shape, other
            images in the second pass, or a tensor that is not finite or has one value only.
    """
    network = Network(graph)
    checked = CheckedImages(images, network.shape)
    seen = _find_extremes(network, checked, lambda done: _report(progress, done, 2 * count))
    checked.require_content()
    total = checked.total
    return second_pass(network, checked, seen, lambda done: _report(progress, total + done, 2 * total))


def second_pass(
    network: Network, images: CheckedImages, seen: Mapping[str, Extremes], report: Callable[[int], None]
) -> Statistics:
    """What `collect` finds where the extremes of the activations are known already; a value past them counts as them.

    Args:
        images: after their first pass.
        report: told how many runs are done.

    Raises:
        CalibrationError: see `collect`.
    """
    require_ranges(seen)
    return Statistics(images.total, _count(network, images, seen, report))


class Network:
    """The graph with every measured tensor as an output."""

    def __init__(self, graph: InferenceGraph) -> None:
        """Opens the graph."""
        self.shape = self.shape_of(graph)
        self._names = [name for name in measured_tensors(graph.model.graph) if name != INPUT]
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        for name in self._names:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        self._session = open_session(model, threads=1)

    @staticmethod
    def shape_of(graph: InferenceGraph) -> tuple[int, ...]:
        """The shape of an image."""
        return (1, 3, graph.preprocess.crop, graph.preprocess.crop)

    def activations(self, image: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """(name, float32 values) of every measured tensor, the input first. From any number of threads at once."""
        yield INPUT, image
        yield from zip(self._names, self._session.run(self._names, {INPUT: image}), strict=True)


class CheckedImages:
    """The images of both passes: each one checked, and the second time recognized."""

    def __init__(self, images: Images, shape: tuple[int, ...]) -> None:
        """``images`` is called for each pass; ``shape`` is that of an image."""
        self._images = images
        self._shape = shape
        self._times_seen: Counter[bytes] = Counter()
        self._with_content: set[bytes] = set()

    @property
    def total(self) -> int:
        """How many images there were."""
        return sum(self._times_seen.values())

    def first_pass(self) -> Iterator[NDArray[np.float32]]:
        """The images, which are remembered by their hash."""
        for digest, image in self._hashed():
            self._times_seen[digest] += 1
            if (image.max(axis=(2, 3)) > image.min(axis=(2, 3))).any():
                self._with_content.add(digest)
            yield image

    def second_pass(self) -> Iterator[NDArray[np.float32]]:
        """The same images in any order, since a value outside the extremes has no bin. Raises `CalibrationError`."""
        awaited = self._times_seen.copy()
        for digest, image in self._hashed():
            awaited[digest] -= 1
            if awaited[digest] < 0:
                raise _images_changed()
            yield image
        if any(awaited.values()):
            raise _images_changed()

    def _hashed(self) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        for image in self._images():
            if image.shape != self._shape or image.dtype != np.float32:
                raise CalibrationError(
                    f"a calibration image is {image.dtype} {image.shape} where float32 {self._shape} is expected;"
                    " preprocess it as the graph says"
                )
            yield hashlib.sha256(image.tobytes()).digest(), image

    def require_content(self) -> None:
        """Refuses images that say nothing: too few, copies of each other, or each of one colour, such as all black."""
        if len(self._with_content) < MIN_IMAGES:
            raise CalibrationError(
                f"only {len(self._with_content)} of {self.total} calibration images are different and show more than"
                f" one colour; at least {MIN_IMAGES} are needed, and some hundred images as in training are best"
            )


def _find_extremes(network: Network, images: CheckedImages, report: Callable[[int], None]) -> dict[str, Extremes]:
    def of_image(image: NDArray[np.float32]) -> dict[str, Extremes]:
        return {name: extremes(values) for name, values in network.activations(image)}

    seen: dict[str, Extremes] = {}
    for done, found in enumerate(side_by_side(of_image, images.first_pass()), start=1):
        seen = {name: seen[name] | here if name in seen else here for name, here in found.items()}
        report(done)
    return seen


def _count(
    network: Network, images: CheckedImages, seen: Mapping[str, Extremes], report: Callable[[int], None]
) -> dict[str, Histogram]:
    free: SimpleQueue[dict[str, HistogramCounter]] = SimpleQueue()

    def count(image: NDArray[np.float32]) -> None:
        try:
            counters = free.get_nowait()
        except Empty:
            counters = _counters(seen)
        for name, values in network.activations(image):
            counters[name].add(values)
        free.put(counters)

    for done, _ in enumerate(side_by_side(count, images.second_pass()), start=1):
        report(done)
    streams = [free.get() for _ in range(free.qsize())]
    return {name: reduce(add, (counters[name].histogram() for counters in streams)) for name in seen}


def _counters(seen: Mapping[str, Extremes]) -> dict[str, HistogramCounter]:
    """What one image at a time is counted into."""
    scratch = Scratch()
    return {name: HistogramCounter(found, scratch=scratch) for name, found in seen.items()}


def _images_changed() -> CalibrationError:
    return CalibrationError("the calibration images changed while they were read; leave them alone and start again")


def require_ranges(seen: Mapping[str, Extremes]) -> None:
    """Refuses tensors that cannot be given a grid. Raises `CalibrationError`."""
    for name, found in seen.items():
        if not np.isfinite([found.minimum, found.maximum]).all():
            raise CalibrationError(
                f"the activations of {name} go from {found.minimum} to {found.maximum}; the network's weights are"
                " damaged or its training diverged, use another checkpoint"
            )
        if found.maximum - found.minimum < _SMALLEST_RANGE:
            raise CalibrationError(
                f"{name} is {found.minimum} everywhere on all calibration images; the network is dead there, or the"
                " images are of the wrong kind"
            )


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress:
        progress(done, total)
