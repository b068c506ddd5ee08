"""From a graph and image files to its calibration table; a table that is there already is used where it fits.

Its ranges say how far the activations of the calibration images went. Images of another kind (another camera, another
task) leave much of them unused or are clipped by them, and either costs accuracy that no check of the table itself
shows; `times_as_far` does.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from googlenet_edge import __version__
from googlenet_edge.calibration.choose import Preparation, Rare, Trials, runs_of
from googlenet_edge.calibration.collect import CheckedImages, Runs, Statistics, collect, counted, with_peaks
from googlenet_edge.calibration.extremes import (
    ChannelExtremes,
    flat,
    joined,
    observations,
    rarest,
    require_ranges,
    stacked,
)
from googlenet_edge.calibration.histogram import Histogram
from googlenet_edge.calibration.lower import rescaled_by
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.rescale import rescaled_extremes
from googlenet_edge.calibration.session import Image, Network
from googlenet_edge.calibration.table import (
    CalibrationTable,
    Choice,
    Rounding,
    encode_floats,
    encode_steps,
    make_table,
    read_table,
)
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.calibration.windows import Moments, Windows, window_moments
from googlenet_edge.dataset import Checked, ImageSet, Progress
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import INPUT, InferenceGraph

FEWEST_TO_CHOOSE = 16
HELD_OUT_SHARE = 5
_MOST_HELD_OUT = 32
_CLOSE_IMAGES = 48
_COUNTED_IMAGES = 16  # of those
_MOST_PEAKS = 512  # images
_RARE_SHARE = 64  # one of so many
_log = logging.getLogger(__name__)

FAR_SHARE = 1e-2
"""The share of a tensor's values on the calibration images that count as far from zero."""

LEAST_TIMES, MOST_TIMES = 0.25, 2.0
"""Networks for signs, flowers and CIFAR-10's images, each calibrated on 20 to 200 images of its own, three draws each,
gave 0.45 to 1.55; calibrated on those of the two others, 2.5 to 5.5. By hand, not kept."""
_FEWEST_EXPECTED = 20


def calibrate(
    graph: InferenceGraph, images: Checked, *, method: RangeMethod | None = None, progress: Progress | None = None
) -> CalibrationTable:
    """Runs the images through the graph, and chooses how to quantize it.

    By default a fifth of the images, at most `_MOST_HELD_OUT`, is held out and decides (see `choose`). Extremes are
    those of all images; how values move together is seen on `_CLOSE_IMAGES` of those that were not held out, and how
    they lie between the extremes is counted on `_COUNTED_IMAGES` of these. What so few do not show, the large values of
    the others, is in the peaks: the extremes of every channel on each of `_MOST_PEAKS` images, and those over all.
    Of these, one in `_RARE_SHARE`, those that reach furthest, judge range methods beside the held-out ones. Below
    `FEWEST_TO_CHOOSE` images nothing is chosen, and ranges are min/max.

    Args:
        method: take this range method, and neither rescale nor correct anything.

    Raises:
        CalibrationError: the images or the activations cannot be used; see `collect`.
    """
    if not method and len(images.images) >= FEWEST_TO_CHOOSE:
        # The threads of BLAS wait for each other in loops, which beside another program takes several times as long.
        with threadpool_limits(1, user_api="blas"):
            return _by_trial(graph, images, progress)

    def inputs() -> Iterator[NDArray[np.float32]]:
        return _inputs(graph, images.pixels(images.images, graph.preprocess))

    statistics = collect(graph, inputs, count=len(images.images), progress=progress)
    table = make_table(graph, statistics, images_sha256=images.sha256, method=method or RangeMethod.MINMAX)
    return replace(table, wished=method)


@dataclass(frozen=True, slots=True, eq=False)
class _FirstPass:
    """What all images showed.

    Attributes:
        moments: of the windows of the close images.
        measured: the extremes of the images that were not held out.
        every: those of all.
        peaks: those of each of at most `_MOST_PEAKS` of them, and ``every``: ``(images + 1, channels)``.
        exact: the logits of the held-out images, float32 ``(images, classes)``.
    """

    moments: dict[Windows, Moments]
    measured: dict[str, ChannelExtremes]
    every: dict[str, ChannelExtremes]
    peaks: dict[str, ChannelExtremes]
    exact: NDArray[np.float32]


def _first_pass(graph: InferenceGraph, inputs: Iterator[Image], *, close: int, measured: int) -> _FirstPass:
    """Looks at images: the ``close`` ones come first, then the others that are ``measured``, then the held-out ones."""
    moments, of_close = window_moments(graph, islice(inputs, close))
    of_measured = every = joined(of_close)
    exact, peaks = list[NDArray[np.float32]](), [flat(each) for each in of_close]
    for number, seen in enumerate(observations(graph, inputs), start=close):
        every = joined([every, seen.extremes])
        if number < measured:
            of_measured = every
        else:
            exact.append(seen.logits)
        if len(peaks) < _MOST_PEAKS:
            peaks.append(flat(seen.extremes))
    return _FirstPass(moments, of_measured, every, stacked([*peaks, flat(every)], like=every), np.concatenate(exact))


def _by_trial(graph: InferenceGraph, images: Checked, progress: Progress | None) -> CalibrationTable:
    """Two passes, and the trials between them."""
    preprocess, (measured, held_out) = graph.preprocess, _parted(images.images)
    close = measured.take(range(min(_CLOSE_IMAGES, len(measured))))
    others = images.pixels(measured.take(range(len(close), len(measured))), preprocess)
    close_pixels, held_out_pixels = (list(images.pixels(some, preprocess)) for some in (close, held_out))
    counting = close_pixels[:_COUNTED_IMAGES]
    rare_count = max(1, min(len(images.images), _MOST_PEAKS) // _RARE_SHARE)
    looked_at = replace(measured, paths=measured.paths + held_out.paths, labels=measured.labels + held_out.labels)
    runs = Runs(progress, len(images.images) + len(counting) + runs_of(len(held_out), rare_count))
    checked, inputs = CheckedImages(), _inputs(graph, chain(close_pixels, others, held_out_pixels))
    seen = _first_pass(graph, runs.each(checked.each(inputs)), close=len(close), measured=len(measured))
    checked.require_content()
    require_ranges({name: channels.whole for name, channels in seen.every.items()})
    numbers = rarest(seen.peaks, rare_count)
    rare_pixels = list(images.pixels(looked_at.take(numbers), preprocess))
    rare = Rare(
        [each[None] for each in rare_pixels],
        np.concatenate([each.logits for each in observations(graph, runs.each(_inputs(graph, rare_pixels)))]),
        share=rare_count / min(len(looked_at), _MOST_PEAKS),
        held_out=frozenset(number - len(measured) for number in numbers if number >= len(measured)),
    )
    trials = Trials([each[None] for each in held_out_pixels], seen.exact, runs.done)
    found = trials.preparation(graph, seen.measured, seen.moments)
    rounding, every, peaks = _rounding(found), seen.every, seen.peaks
    del seen  # the moments are the most of what is held in memory
    found = replace(found, moments={})
    if found.factors:
        every, peaks = (rescaled_extremes(graph, each, found.factors) for each in (every, peaks))
    whole = {name: channels.whole for name, channels in every.items()}
    histograms = counted(found.graph, runs.each(_inputs(graph, counting)), whole)
    statistics = Statistics(checked.total, with_peaks(histograms, peaks))
    table = make_table(graph, statistics, images_sha256=images.sha256, method=RangeMethod.HEADROOM)
    return replace(
        trials.method(found, table, rare),
        rescale={name: encode_floats(value) for name, value in found.factors.items()},
        rounding=rounding,
        means={name: encode_floats(value) for name, value in found.means.items()},
        choice=Choice(len(held_out), tuple(trials.tried)),
    )


def table_at(
    path: Path, graph: InferenceGraph, images: Checked, *, method: RangeMethod | None
) -> CalibrationTable | None:
    """The table that is there, where this version made it for the same wish from this graph and these images."""
    if not path.exists():
        return None
    try:
        table = read_table(path)
    except CalibrationError as problem:
        _log.warning("%s; calibrating again", str(problem).removesuffix("; calibrate again"))
        return None
    found = (table.tool_version, table.graph_sha256, table.images_sha256, table.preprocess, table.wished)
    return table if found == (__version__, graph.sha256, images.sha256, graph.preprocess, method) else None


def _inputs(graph: InferenceGraph, pixels: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
    """float32 ``(1, 3, crop, crop)`` for uint8 ``(crop, crop, 3)``."""
    return (graph.preprocess.normalize(each[None]) for each in pixels)


def _parted(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """(measured, held out): a fifth is held out, the same whatever the order of the images; both sorted by a hash."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(
            str(images.paths[index].relative_to(images.root)).encode(errors="surrogateescape")
        ).digest()

    order = sorted(range(len(images)), key=rank)
    count = min(_MOST_HELD_OUT, len(order) // HELD_OUT_SHARE)
    return images.take(order[count:]), images.take(order[:count])


def _rounding(preparation: Preparation) -> dict[str, Rounding]:
    """The steps as they stand in the table, for both ranges of weights."""
    if not preparation.steps:
        return {}
    full, reduced = preparation.steps, preparation.rounded(WeightRange.REDUCED)
    return {name: Rounding(encode_steps(full[name]), encode_steps(reduced[name])) for name in full}


def times_as_far(graph: InferenceGraph, table: CalibrationTable, images: Iterable[NDArray[np.float32]]) -> float:
    """How many times as often as on the calibration images the activations go far from zero: the median over tensors.

    About 1 for images of the same kind. Tensors with too few values to tell are left out; 1 where all are.

    Args:
        images: float32 ``(1, 3, crop, crop)`` after preprocessing; some dozens are enough.

    Raises:
        CalibrationError: the table belongs to another graph, or is damaged.
    """
    network = Network(rescaled_by(graph, table))
    thresholds = {name: _threshold(found.histogram) for name, found in table.tensors.items() if name != INPUT}
    far, total = dict.fromkeys(thresholds, 0), dict.fromkeys(thresholds, 0)
    for image in images:
        for name, values in network.activations(image):
            if name in thresholds:
                threshold, _ = thresholds[name]
                far[name] += int((np.abs(values) >= threshold).sum())
                total[name] += values.size
    expected = {name: share * total[name] for name, (_, share) in thresholds.items()}
    return statistics.median([far[n] / count for n, count in expected.items() if count >= _FEWEST_EXPECTED] or [1.0])


def unlike(times: float) -> str | None:
    """A sentence where that says that the images are of another kind."""
    if LEAST_TIMES <= times <= MOST_TIMES:
        return None
    found = f"{times:.1f} times" if times > 1 else f"{times:.2f} times"
    return (
        "the images that were calibrated on may be of another kind than those of the validation, where activations are"
        f" large {found} as often; calibrate on images as the camera gives them"
    )


def _threshold(histogram: Histogram) -> tuple[float, float]:
    """The magnitude that about `FAR_SHARE` of the values reach, and the share that does."""
    counts = histogram.magnitudes()
    reaching = np.cumsum(counts[::-1])[::-1] / counts.sum()
    first = int(np.searchsorted(-reaching, -FAR_SHARE))  # the first bin that no more than the share reach
    first = min(first, len(counts) - 1)
    while reaching[first] == 0:
        first -= 1
    return first * histogram.width, float(reaching[first])
