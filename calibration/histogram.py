"""Statistics of one tensor in fixed memory: its extremes, then the counts of its values in 2048 bins between them.

Counts are integers, so adding them is exact: neither the order of the images nor their grouping changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

BINS = 2048


@dataclass(frozen=True, slots=True)
class Extremes:
    """The smallest and the largest value seen; NaN where a NaN was seen."""

    minimum: float
    maximum: float


def extremes(values: NDArray[np.float32]) -> Extremes:
    """The extremes of an array of any shape with at least one element."""
    return Extremes(float(values.min()), float(values.max()))


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often values fall into each of `BINS` equal bins from ``low`` to ``high``.

    The bins span the extremes and zero, because every quantization grid holds zero.

    Attributes:
        minimum, maximum: the extremes of the values.
        counts: int64 ``(BINS,)``. The last bin holds its right edge.
        peaks: the same of the extremes of every channel on each image, where few images are counted; else zeros.
    """

    minimum: float
    maximum: float
    counts: NDArray[np.int64]
    peaks: NDArray[np.int64]

    @property
    def low(self) -> float:
        """Left edge of the first bin."""
        return min(self.minimum, 0.0)

    @property
    def high(self) -> float:
        """Right edge of the last bin."""
        return max(self.maximum, 0.0)

    @property
    def amax(self) -> float:
        """The largest absolute value."""
        return max(-self.low, self.high)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.high - self.low) / BINS

    @property
    def centres(self) -> NDArray[np.float64]:
        """The value that stands for each bin: its centre, but zero for the bin that holds zero.

        After a ReLU that bin is mostly exact zeros.
        """
        edges = self.low + self.width * np.arange(BINS + 1)
        holds_zero = (edges[:-1] <= 0.0) & (edges[1:] > 0.0)
        return np.where(holds_zero, 0.0, (edges[:-1] + edges[1:]) / 2)

    def magnitudes(self) -> NDArray[np.int64]:
        """Counts of the absolute values in bins of the same width, from zero on; at most `BINS` of them."""
        index = (np.abs(self.centres) / self.width).astype(np.intp)
        # The weights are whole numbers below 2**53, so their sums are exact.
        return np.bincount(index, weights=self.counts)[:BINS].astype(np.int64)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values, which were given the same extremes."""
        return replace(self, counts=self.counts + other.counts, peaks=self.peaks + other.peaks)


class HistogramCounter:
    """Counts the values of one tensor, array after array.

    The one hot loop of calibration, about 2 ns a value: a subtraction, a clipping and a multiplication give the index.
    """

    def __init__(self, seen: Extremes, *, scratch: Scratch) -> None:
        """Counts between ``seen``, which must be finite and not both zero. ``scratch`` may be shared."""
        self._seen = seen
        self._scratch = scratch
        self._low = np.float32(min(seen.minimum, 0.0))
        self._span = np.float32(max(seen.maximum, 0.0) - min(seen.minimum, 0.0))
        self._bins_per_unit = np.float32(BINS / (max(seen.maximum, 0.0) - min(seen.minimum, 0.0)))
        self._counts = np.zeros(BINS + 1, dtype=np.int64)  # the maximum itself falls into one bin more

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts an array of any shape. Values past the extremes go into the outer bins."""
        offsets, index = self._scratch.of_size(values.size)
        np.subtract(values.reshape(-1), self._low, out=offsets)
        np.clip(offsets, 0, self._span, out=offsets)
        np.multiply(offsets, self._bins_per_unit, out=index, casting="unsafe")
        self._counts += np.bincount(index, minlength=BINS + 1)

    def histogram(self) -> Histogram:
        """The counts so far."""
        counts = self._counts[:BINS].copy()
        counts[-1] += self._counts[BINS]
        return Histogram(self._seen.minimum, self._seen.maximum, counts, np.zeros_like(counts))


class Scratch:
    """Buffers that the counters of a network share, as large as its largest tensor."""

    def __init__(self) -> None:
        """Nothing is allocated before it is needed."""
        self._offsets = np.empty(0, dtype=np.float32)
        self._index = np.empty(0, dtype=np.intp)

    def of_size(self, size: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """(float32 ``(size,)``, intp ``(size,)``) with any content."""
        if size > self._index.size:
            self._offsets = np.empty(size, dtype=np.float32)
            self._index = np.empty(size, dtype=np.intp)
        return self._offsets[:size], self._index[:size]
