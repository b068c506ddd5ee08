"""From a graph and image files to its calibration table; a table that is there already is used where it fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.calibration.collect import collect
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.calibration.table import CalibrationTable, make_table, read_table
from googlenet_edge.dataset import Checked, Progress, load_pixels
from googlenet_edge.errors import CalibrationError
from googlenet_edge.graph import InferenceGraph

_log = logging.getLogger(__name__)


def calibrate(
    graph: InferenceGraph, images: Checked, *, method: RangeMethod, progress: Progress | None = None
) -> CalibrationTable:
    """Runs the images through the graph, twice, and chooses the ranges.

    Raises:
        CalibrationError: the images or the activations cannot be used; see `collect`.
    """

    def batches() -> Iterator[NDArray[np.float32]]:
        for pixels in load_pixels(images.images, graph.preprocess):
            yield graph.preprocess.normalize(pixels[None])

    statistics = collect(graph, batches, count=len(images.images), progress=progress)
    return make_table(graph, statistics, images_sha256=images.sha256, method=method)


def table_at(path: Path, graph: InferenceGraph, images: Checked, *, method: RangeMethod) -> CalibrationTable | None:
    """The table that is there, where it was made by this version from this graph and these images; else nothing.

    Another method is no reason to calibrate again: the ranges are chosen anew from the histograms.
    """
    if not path.exists():
        return None
    try:
        table = read_table(path)
    except CalibrationError as problem:
        _log.warning("%s; calibrating again", problem)
        return None
    found = (table.tool_version, table.graph_sha256, table.images_sha256, table.preprocess)
    if found != (__version__, graph.sha256, images.sha256, graph.preprocess):
        return None
    return table if table.method is method else table.with_method(method)
