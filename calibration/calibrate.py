"""From a graph and image files to its calibration table; a table that is there already is used where it fits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.choose import STRENGTHS, Preparation, Trials
from googlenet_edge.calibration.collect import CheckedImages, Network, collect, require_ranges, second_pass
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.rescale import channel_extremes, joined_extremes, rescaled_extremes, rescaled_moments
from googlenet_edge.calibration.rounding import rounding_steps
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
from googlenet_edge.dataset import Checked, ImageSet, Progress, load_pixels
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

FEWEST_TO_CHOOSE = 40
HELD_OUT_SHARE = 5
_MOST_HELD_OUT = 100
_WINDOW_IMAGES = 64
_MOST_KEPT_BYTES = 128 << 20  # 835 images at 224×224
_log = logging.getLogger(__name__)


def calibrate(
    graph: InferenceGraph, images: Checked, *, method: RangeMethod | None = None, progress: Progress | None = None
) -> CalibrationTable:
    """Runs the images through the graph, and chooses how to quantize it.

    By default a fifth of the images is held out and decides (see `choose`), and then counts with the others: ranges are
    those of all images. Below `FEWEST_TO_CHOOSE` images they are min/max.

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
    inputs = _Inputs(graph, _joined(measured, held_out))
    checked = CheckedImages(lambda: inputs, Network.shape_of(graph))
    report = _Report(progress, _runs(measured, held_out))
    first_pass = report.each(checked.first_pass())
    seen = channel_extremes(graph, islice(first_pass, len(measured)))
    whole = joined_extremes(seen, channel_extremes(graph, first_pass))
    checked.require_content()
    require_ranges({name: found.whole for name, found in whole.items()})
    moments = window_moments(graph, report.each(islice(inputs, min(_WINDOW_IMAGES, len(measured)))))
    trials = Trials(graph, [pixels[None] for pixels in load_pixels(held_out, graph.preprocess)], report.done)
    found = trials.preparation(seen, moments)
    after = rescaled_extremes(graph, whole, found.factors) if found.factors else whole
    extremes = {name: channels.whole for name, channels in after.items()}
    statistics = second_pass(Network(found.rescaled(graph)), checked, extremes, lambda _: report.done())
    table = make_table(graph, statistics, images_sha256=images.sha256, method=RangeMethod.HEADROOM)
    return replace(
        trials.method(found, table),
        rescale={name: encode_floats(value) for name, value in found.factors.items()},
        rounding=_rounding(graph, found, moments),
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
        _log.warning("%s; calibrating again", problem)
        return None
    found = (table.tool_version, table.graph_sha256, table.images_sha256, table.preprocess, table.wished)
    return table if found == (__version__, graph.sha256, images.sha256, graph.preprocess, method) else None


class _Inputs:
    """float32 ``(1, 3, crop, crop)`` for every image, each time anew; the pixels are kept where they are few."""

    def __init__(self, graph: InferenceGraph, images: ImageSet) -> None:
        self._preprocess, self._images = graph.preprocess, images
        self._keep = len(images) * graph.preprocess.crop**2 * 3 <= _MOST_KEPT_BYTES
        self._pixels: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        kept = len(self._pixels)
        for pixels in self._pixels[:kept]:
            yield self._preprocess.normalize(pixels[None])
        rest = self._images.take(list(range(kept, len(self._images))))
        for pixels in load_pixels(rest, self._preprocess):
            if self._keep:
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


def _joined(first: ImageSet, second: ImageSet) -> ImageSet:
    return replace(first, paths=first.paths + second.paths, labels=first.labels + second.labels)


def _runs(measured: ImageSet, held_out: ImageSet) -> int:
    """How many runs of the graph a calibration with trials takes."""
    trials = 1 + (1 + len(STRENGTHS)) + 1 + 1 + len(RangeMethod)
    return 2 * (len(measured) + len(held_out)) + min(_WINDOW_IMAGES, len(measured)) + trials * len(held_out)


def _rounding(
    graph: InferenceGraph, preparation: Preparation, moments: Mapping[Windows, Moments]
) -> dict[str, Rounding]:
    """The steps as they stand in the table, for both ranges of weights; ``moments`` are those of the graph."""
    if not preparation.steps:
        return {}
    seen = rescaled_moments(graph, moments, preparation.factors) if preparation.factors else moments
    reduced = rounding_steps(preparation.rescaled(graph), preparation.ranges, seen, WeightRange.REDUCED)
    full = preparation.steps
    return {name: Rounding(encode_steps(full[name]), encode_steps(reduced[name])) for name in full}


class _Report:
    """Counts runs of the graph."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0

    def done(self) -> None:
        self._count += 1
        if self._progress:
            self._progress(self._count, self._total)

    def each(self, images: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for image in images:
            yield image
            self.done()
