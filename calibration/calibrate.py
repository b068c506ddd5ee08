"""From a graph and image files to its calibration table; a table that is there already is used where it fits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.choose import TRIALS, Preparation, Trials
from googlenet_edge.calibration.collect import CheckedImages, Runs, Statistics, collect, counted
from googlenet_edge.calibration.extremes import looks, require_ranges, together
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.rescale import rescaled_extremes
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
from googlenet_edge.calibration.windows import window_moments
from googlenet_edge.dataset import Checked, ImageSet, Progress
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

FEWEST_TO_CHOOSE = 40
KEPT_BYTES = 100 * 2**20
"""What pixels of checked images may take until they are calibrated on: 700 of 224×224 are decoded once."""
HELD_OUT_SHARE = 5
_MOST_HELD_OUT = 32
_WINDOW_IMAGES = 48
_COUNTED_IMAGES = 32
_log = logging.getLogger(__name__)


def calibrate(
    graph: InferenceGraph, images: Checked, *, method: RangeMethod | None = None, progress: Progress | None = None
) -> CalibrationTable:
    """Runs the images through the graph, and chooses how to quantize it.

    By default a fifth of the images, at most `_MOST_HELD_OUT`, is held out and decides (see `choose`). Extremes are
    those of all images; how values lie between them is counted on `_COUNTED_IMAGES` of those that were not held out,
    which is enough. Below `FEWEST_TO_CHOOSE` images ranges are min/max.

    Args:
        method: take this range method, and neither rescale nor correct anything.

    Raises:
        CalibrationError: the images or the activations cannot be used; see `collect`.
    """
    if not method and len(images.images) >= FEWEST_TO_CHOOSE:
        return _by_trial(graph, images, progress)

    def inputs() -> Iterator[NDArray[np.float32]]:
        return _inputs(graph, images.pixels(images.images, graph.preprocess))

    statistics = collect(graph, inputs, count=len(images.images), progress=progress)
    table = make_table(graph, statistics, images_sha256=images.sha256, method=method or RangeMethod.MINMAX)
    return replace(table, wished=method)


def _by_trial(graph: InferenceGraph, images: Checked, progress: Progress | None) -> CalibrationTable:
    measured, held_out = _parted(images.images)
    close, others = _split(measured, _WINDOW_IMAGES)
    first, last = (list(images.pixels(some, graph.preprocess)) for some in (close, held_out))
    every = CheckedImages(lambda: _inputs(graph, chain(first, images.pixels(others, graph.preprocess), last)), graph)
    counting = first[:_COUNTED_IMAGES]
    runs = Runs(progress, len(images.images) + len(counting) + TRIALS * len(held_out))
    inputs = runs.each(every.first_pass())
    moments, seen_close = window_moments(graph, islice(inputs, len(close)))
    seen_each = looks(graph, inputs)
    seen, seen_held_out = seen_close | together(islice(seen_each, len(others))), together(seen_each)
    every.require_content()
    whole = (seen | seen_held_out).extremes
    require_ranges({name: channels.whole for name, channels in whole.items()})
    trials = Trials([each[None] for each in last], np.concatenate(seen_held_out.logits), runs.done)
    found = trials.preparation(graph, seen.extremes, moments)
    rounding, found = _rounding(found), replace(found, moments={})
    del moments  # which are the most of what is held in memory
    after = rescaled_extremes(graph, whole, found.factors) if found.factors else whole
    extremes = {name: channels.whole for name, channels in after.items()}
    histograms = counted(found.graph, runs.each(_inputs(graph, counting)), extremes)
    statistics = Statistics(every.total, histograms)
    table = make_table(graph, statistics, images_sha256=images.sha256, method=RangeMethod.HEADROOM)
    return replace(
        trials.method(found, table),
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

    in_order = images.take(sorted(range(len(images)), key=rank))
    held_out, measured = _split(in_order, min(_MOST_HELD_OUT, len(images) // HELD_OUT_SHARE))
    return measured, held_out


def _split(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """The first images, and the others."""
    numbers = list(range(len(images)))
    return images.take(numbers[:count]), images.take(numbers[count:])


def _rounding(preparation: Preparation) -> dict[str, Rounding]:
    """The steps as they stand in the table, for both ranges of weights."""
    if not preparation.steps:
        return {}
    full, reduced = preparation.steps, preparation.rounded(WeightRange.REDUCED)
    return {name: Rounding(encode_steps(full[name]), encode_steps(reduced[name])) for name in full}
