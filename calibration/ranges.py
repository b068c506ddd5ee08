"""Where to clip a tensor, estimated from its histogram: for the asymmetric u8 grid and for the symmetric s8 grid.

Both grids are estimated from the same histogram, because their best clipping differs: u8 spends all 256 codes between
``low`` and ``high``, s8 has 127 for each sign, and after a ReLU half of them are lost.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.histogram import Histogram
from googlenet_edge.preprocess import Preprocess

PERCENTILE = 99.99
HEADROOM = 0.3
HEADROOM_LEAD_DB = 2 * 20 * math.log10(1 + HEADROOM)
"""By how much ranges without headroom must win: twice what it costs where nothing is clipped."""
U8_STEPS = 255
S8_STEPS = 127
_FEWEST_BINS = 128
_MSE_STRIDE = 16
_ENTROPY_STRIDE = 4


class RangeMethod(Enum):
    """How a range is estimated.

    Headroom is that of `with_headroom`: on the u8 grid beyond min/max, on the s8 grid beyond what costs the smallest
    mean squared error. With half of the codes gone, rounding costs more there than the little that is clipped.

    Asked for by name, a method sees the values of all images; tried among others, those of a few and the peaks of all.
    """

    HEADROOM = "headroom"
    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


@dataclass(frozen=True, slots=True)
class Ranges:
    """Where a tensor is clipped, in the tensor's own unit.

    Attributes:
        low, high: for the asymmetric grid. ``low <= 0 <= high``; ``low`` is 0 where no value is negative.
        amax: for the symmetric grid, which clips at ``-amax`` and ``amax``.
    """

    low: float
    high: float
    amax: float


@dataclass(frozen=True, slots=True)
class U8Grid:
    """real = scale · (code - zero_point), code 0…255. ``name`` is the tensor whose range it was made from."""

    name: str
    scale: np.float32
    zero_point: np.uint8


def estimate(histogram: Histogram, method: RangeMethod) -> Ranges:
    """The ranges of one tensor by one method."""
    match method:
        case RangeMethod.HEADROOM:
            return with_headroom(replace(minmax(histogram), amax=_s8_amax_of_least_error(histogram)))
        case RangeMethod.MINMAX:
            return minmax(histogram)
        case RangeMethod.PERCENTILE:
            return percentile(histogram)
        case RangeMethod.ENTROPY:
            return entropy(histogram)
        case RangeMethod.MSE:
            return mse(histogram)


def u8_grid(ranges: Mapping[str, Ranges], tensor: str) -> U8Grid:
    """The u8 grid of a measured tensor. Raises `KeyError` where it was not measured."""
    found = ranges[tensor]
    scale, zero_point = covering_grid(found.low, found.high)
    return U8Grid(tensor, np.float32(scale), np.uint8(zero_point))


def s8_scale(ranges: Mapping[str, Ranges], tensor: str) -> np.float32:
    """The scale of the symmetric s8 grid of a measured tensor. Raises `KeyError` where it was not measured."""
    scale: np.float32 = np.float32(ranges[tensor].amax / S8_STEPS)
    return scale


def covering_grid(low: float, high: float) -> tuple[float, int]:
    """(scale, zero-point) of the finest u8 grid that has zero as a code and reaches from ``low`` to ``high``.

    Where zero falls between two codes, the usual scale of ``(high - low) / 255`` leaves one end half a step out. What
    is zero everywhere, as on some images only, has the scale 1.
    """

    def scale_to_reach_both(zero_point: int) -> float:
        below = -low / zero_point if zero_point else (math.inf if low < 0 else 0.0)
        above = high / (U8_STEPS - zero_point) if zero_point < U8_STEPS else (math.inf if high > 0 else 0.0)
        return max(below, above)

    if low == high:
        return 1.0, 0
    between = U8_STEPS * (-low / (high - low))  # not more than all steps, however it is rounded
    below = min(math.floor(between), U8_STEPS - 1 if high > 0 else U8_STEPS)  # an end next to nothing needs a code, too
    above = max(math.ceil(between), 1 if low < 0 else 0)
    return min((scale_to_reach_both(z), z) for z in (below, above))


def range_of_pixels(preprocess: Preprocess) -> Ranges:
    """Of the network's input: where a pixel, normalized, can end, whatever calibration images show."""
    low, high = preprocess.bounds
    return Ranges(min(low, 0.0), max(high, 0.0), max(-low, high))


def minmax(histogram: Histogram) -> Ranges:
    """Clips nothing. Source: the maximum calibration of Wu et al. (arXiv 2004.09602), section 3.1."""
    return Ranges(histogram.low, histogram.high, histogram.amax)


def with_headroom(ranges: Ranges) -> Ranges:
    """Room on either side for what no calibration image reached.

    Some hundred images do not show the extremes of the next thousands, and on the u8 grid what is clipped there is a
    larger error than all rounding.
    """
    return Ranges(*(bound * (1 + HEADROOM) for bound in (ranges.low, ranges.high, ranges.amax)))


def percentile(histogram: Histogram, share: float = PERCENTILE) -> Ranges:
    """Keeps ``share`` percent of the values: the symmetric grid cuts one tail of |x|, the asymmetric one half per side.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference" (arXiv 2004.09602), section 3.1, which finds
    99.99 and 99.999 safe.
    """
    cut = (100.0 - share) / 100.0
    counts, width = histogram.counts, histogram.width
    return Ranges(
        low=min(histogram.high - width * _bins_kept(counts[::-1], cut / 2), 0.0),
        high=max(histogram.low + width * _bins_kept(counts, cut / 2), 0.0),
        amax=min(width * _bins_kept(histogram.magnitudes(), cut), histogram.amax),
    )


def entropy(histogram: Histogram) -> Ranges:
    """Clips |x| where the quantized distribution tells most about the true one: the smallest KL divergence.

    Source: S. Migacz, "8-bit Inference with TensorRT" (GTC 2017), pages 33 to 38, with 128 levels for the magnitudes
    of s8. On the u8 grid the magnitudes of a tensor without negative values have 256 levels.
    """
    magnitudes = histogram.magnitudes()
    s8_bins = _bins_of_least_divergence(magnitudes, S8_STEPS + 1)
    u8_bins = s8_bins if histogram.minimum < 0 else _bins_of_least_divergence(magnitudes, U8_STEPS + 1)
    low, high = _clipped(histogram, np.array(histogram.width * u8_bins))
    return Ranges(float(low), float(high), min(histogram.width * s8_bins, histogram.amax))


def mse(histogram: Histogram) -> Ranges:
    """Clips |x| where rounding and clipping together cost the smallest mean squared error.

    Source: the grid search of Nagel et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295),
    section 3.1, on the values that stand for the bins, weighted with their counts. The peaks count, too, each as
    one value: a few counted images do not show the rare large values. Where many images were looked at, that is far
    more than their share, on purpose: an image that is clipped hard loses more than finer steps give to the others.
    """
    thresholds = _thresholds(histogram)
    low, high = _clipped(histogram, thresholds)
    scale = (high - low) / U8_STEPS
    lowest = np.rint(low / scale)
    best = int(_squared_errors(histogram, scale, lowest, lowest + U8_STEPS).argmin())
    return Ranges(float(low[best]), float(high[best]), _s8_amax_of_least_error(histogram))


def _s8_amax_of_least_error(histogram: Histogram) -> float:
    """See `mse`."""
    thresholds = _thresholds(histogram)
    bound = np.full_like(thresholds, S8_STEPS)
    return float(thresholds[_squared_errors(histogram, thresholds / S8_STEPS, -bound, bound).argmin()])


def _thresholds(histogram: Histogram) -> NDArray[np.float64]:
    """float64 ``(candidates,)``: magnitudes to clip at, the largest first."""
    bins = np.arange(histogram.magnitudes().size, _FEWEST_BINS - 1, -_MSE_STRIDE)
    magnitudes: NDArray[np.float64] = np.minimum(histogram.width * bins, histogram.amax)
    return magnitudes


def _clipped(histogram: Histogram, thresholds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(low, high) when magnitudes above each threshold are clipped."""
    return np.maximum(histogram.low, -thresholds), np.minimum(histogram.high, thresholds)


def _bins_kept(counts: NDArray[np.int64], cut: float) -> int:
    """How many bins from the left must stay so that at most the share ``cut`` of the values lies beyond them."""
    below = np.cumsum(counts)
    return min(int(np.searchsorted(below, (1.0 - cut) * below[-1])) + 1, counts.size)


def _squared_errors(
    histogram: Histogram, scale: NDArray[np.float64], lowest: NDArray[np.float64], highest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 ``(candidates,)``: the summed squared error of grids with codes ``lowest`` to ``highest`` around zero."""
    values, scale = histogram.centres, scale[:, None]
    codes = np.clip(np.rint(values / scale), lowest[:, None], highest[:, None])
    counts = histogram.counts.astype(np.float64) + histogram.peaks
    errors: NDArray[np.float64] = (codes * scale - values) ** 2 @ counts
    return errors


def _bins_of_least_divergence(counts: NDArray[np.int64], levels: int) -> int:
    """How many bins, from ``levels`` on, to keep for the smallest KL divergence of their quantization; ties keep more.

    The reference P is the kept bins with the mass beyond them folded into the last. Q is the kept bins averaged over
    the filled bins of each level, empty ones staying empty. The first bin takes the count of the second, so that the
    zeros after a ReLU do not drown the rest. Where more lies beyond than is kept, nothing is kept well: of a single
    filled bin P and Q are alike. Sums over bins are differences of running sums, for all candidates at once.
    """
    mass = counts.astype(np.float64)
    mass[0] = mass[1]
    kept, edges = _level_edges(counts.size, levels)
    inside, filled = _running(mass), _running((mass > 0).astype(np.float64))
    if not inside[-1]:  # nothing was counted but zeros: others reached the extremes
        return counts.size
    beyond = inside[-1] - inside[kept]
    last = mass[kept - 1]

    level_mass = np.diff(inside[edges], axis=1)
    level_bins = np.diff(filled[edges], axis=1)
    level_bins[:, -1] += (last == 0) & (beyond > 0)
    reference = level_mass.copy()
    reference[:, -1] += beyond
    with np.errstate(divide="ignore", invalid="ignore"):  # a level that only the folded mass fills is infinitely bad
        log_q = np.log(level_mass / np.maximum(level_bins, 1.0))
        cross = (reference * np.where(reference > 0, log_q, 0.0)).sum(axis=1)
        self_information = _running(_x_log_x(mass))[kept - 1] + _x_log_x(last + beyond)
        divergence = (self_information - cross) / inside[-1] + np.log(inside[kept])
    divergence[beyond > inside[kept]] = np.inf
    return int(kept[np.nanargmin(divergence)])


@functools.lru_cache(maxsize=8)
def _level_edges(bins: int, levels: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(bins kept ``(candidates,)``, most first; edges of the levels ``(candidates, levels + 1)`` as bin numbers)."""
    kept = np.arange(bins, levels - 1, -_ENTROPY_STRIDE)
    return kept, kept[:, None] * np.arange(levels + 1) // levels


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, 2 … values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _x_log_x(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """x·log x, and 0 at 0."""
    logs: NDArray[np.float64] = np.log(np.where(values > 0, values, 1.0))
    return values * logs
