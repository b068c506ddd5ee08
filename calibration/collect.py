"""Runs the FP32 graph on calibration images, one a run: for the extremes, then again to count between them.

Memory does not grow with the number of images. With one image a run, activations do not depend
on what else is in a batch, so the statistics are the same whatever the order of the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.extremes import ChannelExtremes, joined, observations, require_finite, require_ranges
from googlenet_edge.calibration.histogram import Extremes, Histogram, HistogramCounter, Scratch, extremes
from googlenet_edge.calibration.session import Network, side_by_side
from googlenet_edge.dataset import Progress, ticker
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

Images = Callable[[], Iterable[NDArray[np.float32]]]

MIN_IMAGES = 8  # below this a range says more of the images than of the network; hundreds are usual


@dataclass(frozen=True, slots=True)
class Statistics:
    """What images showed: a histogram for every tensor that needs a range, in the graph's order.

    All ``images`` count for the extremes; where some were not counted between them, the histograms have peaks.
    """

    images: int
    histograms: dict[str, Histogram]


def collect(graph: InferenceGraph, images: Images, *, count: int, progress: Progress | None = None) -> Statistics:
    """The statistics of a graph's activations.

    Args:
        images: called twice; gives float32 ``(1, 3, crop, crop)`` images after preprocessing, the same both times. What
            is beyond the extremes of the first counts as them.
        count: how many images it gives, for the progress of the first pass.
        progress: told (runs taken up, runs in total); every image is run twice.

    Raises:
        CalibrationError: fewer than `MIN_IMAGES` different images with content, or a tensor that is not finite or has
            one value only.
    """
    checked, runs = CheckedImages(), Runs(progress, 2 * count)
    found = joined(each.extremes for each in observations(graph, runs.each(checked.each(images()))))
    checked.require_content()
    seen = {name: channels.whole for name, channels in found.items()}
    require_ranges(seen)
    return Statistics(checked.total, counted(graph, runs.each(images()), seen))


class Runs:
    """Tells a progress of each run of the graph."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        """``total`` runs are to come."""
        self.done = ticker(total, progress)

    def each(self, images: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The images, each of which is a run that is told of when the next one is asked for, somewhat ahead of it."""
        for image in images:
            yield image
            self.done()


class CheckedImages:
    """Images that are checked as they come."""

    def __init__(self) -> None:
        """None yet."""
        self.total = 0
        self._with_content: set[bytes] = set()

    def each(self, images: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The images; the first that differ and show something are remembered by their hash, as many as are needed."""
        for image in images:
            self.total += 1
            if len(self._with_content) < MIN_IMAGES and (image.max(axis=(2, 3)) > image.min(axis=(2, 3))).any():
                self._with_content.add(hashlib.sha256(image.tobytes()).digest())
            yield image

    def require_content(self) -> None:
        """Refuses images that say nothing: too few, copies of each other, or each of one colour, such as all black."""
        if len(self._with_content) < MIN_IMAGES:
            raise CalibrationError(
                f"only {len(self._with_content)} of {self.total} calibration images are different and show more than"
                f" one colour; at least {MIN_IMAGES} are needed, and some hundred images as in training are best"
            )


def counted(
    graph: InferenceGraph, images: Iterable[NDArray[np.float32]], seen: Mapping[str, Extremes]
) -> dict[str, Histogram]:
    """How the activations of images lie between extremes that are known; a value past them counts as them.

    Raises:
        CalibrationError: an activation is not finite.
    """
    network = Network(graph)
    free: SimpleQueue[dict[str, HistogramCounter]] = SimpleQueue()

    def count(image: NDArray[np.float32]) -> None:
        try:
            counters = free.get_nowait()
        except Empty:
            counters = _counters(seen)
        for name, values in network.activations(image):
            require_finite({name: extremes(values)})  # a NaN that the runtime's own extremes have lost
            counters[name].add(values)
        free.put(counters)

    for _ in side_by_side(count, images):
        pass
    streams = [free.get() for _ in range(free.qsize())]
    return {name: reduce(add, (counters[name].histogram() for counters in streams)) for name in seen}


def with_peaks(histograms: Mapping[str, Histogram], seen: Mapping[str, ChannelExtremes]) -> dict[str, Histogram]:
    """The histograms with the extremes ``(images, channels)`` of images as their peaks."""
    found, scratch = dict[str, Histogram](), Scratch()
    for name, histogram in histograms.items():
        counter = HistogramCounter(Extremes(histogram.minimum, histogram.maximum), scratch=scratch)
        counter.add(seen[name].low)
        counter.add(seen[name].high)
        found[name] = replace(histogram, peaks=counter.histogram().counts)
    return found


def _counters(seen: Mapping[str, Extremes]) -> dict[str, HistogramCounter]:
    """What one image at a time is counted into."""
    scratch = Scratch()
    return {name: HistogramCounter(found, scratch=scratch) for name, found in seen.items()}
