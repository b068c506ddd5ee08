"""From a graph and image files to its calibration table; a table that is there already is used where it fits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.choose import STRENGTHS, Preparation, Trials
from googlenet_edge.calibration.collect import CheckedImages, Runs, Statistics, collect, counted
from googlenet_edge.calibration.extremes import joined_extremes, look, require_ranges
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
from googlenet_edge.dataset import Checked, ImageSet, Progress, load_pixels
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

FEWEST_TO_CHOOSE = 40
HELD_OUT_SHARE = 5
_MOST_HELD_OUT = 50
_WINDOW_IMAGES = 64
_COUNTED_IMAGES = 100
_KEPT_IMAGES = 100  # as many as are looked at again
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
    if method or len(images.images) < FEWEST_TO_CHOOSE:
        inputs = _Inputs(graph, images.images)
        statistics = collect(graph, lambda: inputs, count=len(images.images), progress=progress)
        table = make_table(graph, statistics, images_sha256=images.sha256, method=method or RangeMethod.MINMAX)
        return replace(table, wished=method)
    measured, held_out = _parted(images.images)
    inputs, pixels = _Inputs(graph, measured), [each[None] for each in load_pixels(held_out, graph.preprocess)]
    checked = CheckedImages(lambda: chain(inputs, map(graph.preprocess.normalize, pixels)), graph)
    runs = Runs(progress, _runs(measured, held_out))
    first_pass = runs.each(checked.first_pass())
    seen, seen_held_out = look(graph, islice(first_pass, len(measured))), look(graph, first_pass)
    checked.require_content()
    whole = joined_extremes(seen.extremes, seen_held_out.extremes)
    require_ranges({name: found.whole for name, found in whole.items()})
    trials = Trials(pixels, np.concatenate(seen_held_out.logits), runs.done)
    windows = runs.each(islice(inputs, min(_WINDOW_IMAGES, len(measured))))
    found = trials.preparation(graph, seen.extremes, window_moments(graph, windows))
    rounding, found = _rounding(found), replace(found, moments={})  # which are the most of what is held in memory
    after = rescaled_extremes(graph, whole, found.factors) if found.factors else whole
    extremes = {name: channels.whole for name, channels in after.items()}
    some = runs.each(islice(inputs, min(_COUNTED_IMAGES, len(measured))))
    statistics = Statistics(checked.total, counted(found.graph, some, extremes))
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


class _Inputs:
    """float32 ``(1, 3, crop, crop)`` for every image, each time anew; the pixels of the first ones are kept."""

    def __init__(self, graph: InferenceGraph, images: ImageSet) -> None:
        self._preprocess, self._images = graph.preprocess, images
        self._pixels: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        kept = len(self._pixels)
        for pixels in self._pixels[:kept]:
            yield self._preprocess.normalize(pixels[None])
        rest = self._images.take(list(range(kept, len(self._images))))
        for pixels in load_pixels(rest, self._preprocess):
            if len(self._pixels) < _KEPT_IMAGES:
                self._pixels.append(pixels)
            yield self._preprocess.normalize(pixels[None])


def _parted(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """(measured, held out): a fifth is held out, the same whatever the order of the images; both sorted by a hash."""

    def rank(index: int) -> bytes:
        return hashlib.sha256(
            str(images.paths[index].relative_to(images.root)).encode(errors="surrogateescape")
        ).digest()

    order = sorted(range(len(images)), key=rank)
    count = min(_MOST_HELD_OUT, len(order) // HELD_OUT_SHARE)
    return images.take(order[count:]), images.take(order[:count])


def _runs(measured: ImageSet, held_out: ImageSet) -> int:
    """How many runs of the graph a calibration with trials takes."""
    trials = (1 + len(STRENGTHS)) + 1 + 1 + len(RangeMethod)
    again = sum(min(count, len(measured)) for count in (_WINDOW_IMAGES, _COUNTED_IMAGES))
    return len(measured) + len(held_out) + again + trials * len(held_out)


def _rounding(preparation: Preparation) -> dict[str, Rounding]:
    """The steps as they stand in the table, for both ranges of weights."""
    if not preparation.steps:
        return {}
    full, reduced = preparation.steps, preparation.rounded(WeightRange.REDUCED)
    return {name: Rounding(encode_steps(full[name]), encode_steps(reduced[name])) for name in full}
