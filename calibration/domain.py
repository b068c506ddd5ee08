"""Whether images are of the kind that a table was calibrated on: whether they drive the activations as far.

A range says how far the activations of the calibration images went. Images of another kind (another camera, another
task) leave much of it unused or are clipped by it, and either costs accuracy that no check of the table itself shows.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.histogram import Histogram
from googlenet_edge.calibration.lower import rescaled_by
from googlenet_edge.calibration.session import Network
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.graph import INPUT, InferenceGraph

FAR_SHARE = 1e-2
"""The share of a tensor's values on the calibration images that count as far from zero."""
LEAST_TIMES, MOST_TIMES = 0.25, 2.0
"""Networks for signs, flowers and CIFAR-10's images, each calibrated on 20 to 200 images of its own, three draws each,
gave 0.45 to 1.55; calibrated on those of the two others, 2.5 to 5.5. By hand, not kept."""
_FEWEST_EXPECTED = 20


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
