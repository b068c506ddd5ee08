"""Histograms and the ranges that are estimated from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_graph import one_by_one, table_of, tiny_graph

from googlenet_edge.calibration import ranges
from googlenet_edge.calibration.collect import collect
from googlenet_edge.calibration.histogram import BINS, Extremes, Histogram, HistogramCounter, Scratch, extremes
from googlenet_edge.calibration.ranges import RangeMethod, Ranges, covering_grid, estimate, percentile
from googlenet_edge.calibration.table import CalibrationTable, make_table
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.preprocess import Preprocess

SEEDS = st.integers(0, 2**32 - 1)


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    counter = HistogramCounter(extremes(values), scratch=Scratch())
    counter.add(values)
    return counter.histogram()


def relu_like(seed: int, *, size: int = 20_000) -> NDArray[np.float32]:
    """Values as after a ReLU: half of them zero, the rest with a long tail."""
    return np.maximum(np.random.default_rng(seed).laplace(size=size), 0).astype(np.float32)


def two_sided(seed: int, *, size: int = 20_000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.2, 1.0, size).astype(np.float32)


@given(SEEDS, st.integers(1, 999))
@settings(max_examples=20, deadline=None)
def test_histogram_does_not_depend_on_order_or_grouping(seed: int, split: int) -> None:
    values = two_sided(seed, size=1000)
    shuffled = np.random.default_rng(seed).permutation(values)
    counter = HistogramCounter(extremes(values), scratch=Scratch())
    counter.add(shuffled[:split])
    counter.add(shuffled[split:])
    assert np.array_equal(counter.histogram().counts, histogram_of(values).counts)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_histogram_counts_every_value_in_its_bin(seed: int) -> None:
    values = two_sided(seed, size=2000)
    found = histogram_of(values)
    assert found.counts.sum() == values.size
    expected, _ = np.histogram(values.astype(np.float64), BINS, (found.low, found.high))
    moved = np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max()
    assert moved <= 2  # float32 arithmetic may move a value that lies on an edge to the next bin


def test_histogram_counts_a_value_past_the_extremes_as_the_outermost() -> None:
    counter = HistogramCounter(Extremes(-1.0, 3.0), scratch=Scratch())
    counter.add(np.array([-1.0, -1.01, -50.0, 3.0, 3.01, 1e9], np.float32))
    counts = counter.histogram().counts
    assert (counts[0], counts[-1], counts.sum()) == (3, 3, 6)


def test_histogram_keeps_the_maximum_in_the_last_bin() -> None:
    found = histogram_of(np.array([0.0, 0.7, 0.7, 0.7], dtype=np.float32))
    assert found.counts[-1] == 3
    assert found.counts[0] == 1


def test_histogram_addition_is_exact() -> None:
    a = Histogram(0.0, 1.0, np.arange(BINS), np.arange(BINS)[::-1])
    assert np.array_equal((a + a).counts, 2 * np.arange(BINS))
    assert np.array_equal((a + a).peaks, 2 * np.arange(BINS)[::-1])


def test_histogram_spans_zero_when_no_value_is_near_it() -> None:
    found = histogram_of(np.array([5.0, 6.0], dtype=np.float32))
    assert (found.low, found.high) == (0.0, 6.0)


def test_histogram_magnitudes_hold_every_value_once() -> None:
    found = histogram_of(two_sided(3))
    assert found.magnitudes().sum() == 20_000
    assert found.magnitudes().size <= BINS
    after_relu = histogram_of(relu_like(3))
    assert np.array_equal(after_relu.magnitudes(), after_relu.counts)


@given(SEEDS, st.sampled_from(RangeMethod), st.sampled_from([relu_like, two_sided]))
@settings(max_examples=40, deadline=None)
def test_ranges_lie_inside_the_extremes_and_hold_zero(seed: int, method: RangeMethod, values: object) -> None:
    measured = histogram_of(values(seed, size=3000))  # type: ignore[operator]
    found, room = estimate(measured, method), 1.3 if method is RangeMethod.HEADROOM else 1.0
    assert measured.low * room <= found.low <= 0 <= found.high <= measured.high * room
    assert found.low < found.high
    assert 0 < found.amax <= measured.amax * room


@pytest.mark.parametrize("values", [relu_like(3), two_sided(3)])
def test_ranges_with_headroom_are_wider_than_what_was_seen(values: NDArray[np.float32]) -> None:
    seen, found = (estimate(histogram_of(values), each) for each in (RangeMethod.MINMAX, RangeMethod.HEADROOM))
    assert (found.low, found.high) == pytest.approx((1.3 * seen.low, 1.3 * seen.high))


def test_headroom_of_the_symmetric_grid_is_not_wasted_on_a_value_that_stands_alone() -> None:
    many = relu_like(3, size=1_000_000)
    measured = histogram_of(np.append(many, 4 * many.max()))
    least, found = (estimate(measured, each) for each in (RangeMethod.MSE, RangeMethod.HEADROOM))
    assert found.amax == pytest.approx(1.3 * least.amax)
    assert found.amax < 0.5 * found.high


def test_symmetric_grid_reaches_further_where_images_that_were_not_counted_do() -> None:
    few = relu_like(3)
    counter = HistogramCounter(Extremes(0.0, 4.0 * few.max()), scratch=Scratch())
    counter.add(few)
    counted = counter.histogram()
    counter.add(np.full(500, 3 * few.max(), np.float32))
    far = replace(counted, peaks=counter.histogram().counts - counted.counts)
    for method in (RangeMethod.HEADROOM, RangeMethod.MSE):
        near, found = (estimate(each, method) for each in (counted, far))
        assert near.amax < 1.3 * few.max()
        assert found.amax > 2 * few.max()
    assert estimate(far, RangeMethod.ENTROPY) == estimate(counted, RangeMethod.ENTROPY)


def test_headroom_of_pixels_is_the_rest_of_their_range_whatever_images_show() -> None:
    def table_of_images(graph: InferenceGraph, *, method: RangeMethod) -> CalibrationTable:
        dim = graph.preprocess.normalize(np.random.default_rng(0).integers(60, 190, (8, 16, 16, 3), np.uint8))
        return make_table(graph, collect(graph, one_by_one(dim), count=8), images_sha256="1" * 64, method=method)

    caffe = replace(tiny_graph(), preprocess=Preprocess(16, 16, (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)))
    assert table_of_images(tiny_graph(), method=RangeMethod.HEADROOM).ranges["images"] == Ranges(-1, 1, 1)
    assert table_of_images(caffe, method=RangeMethod.HEADROOM).ranges["images"] == Ranges(-123, 151, 151)
    assert table_of_images(caffe, method=RangeMethod.MINMAX).ranges["images"].high < 90


def test_headroom_is_that_of_every_other_tensor() -> None:
    table = table_of(tiny_graph(), method=RangeMethod.HEADROOM)
    assert table.ranges["stem"].high == pytest.approx(1.3 * table_of(tiny_graph()).ranges["stem"].high)
    assert table_of(tiny_graph()).with_method(RangeMethod.HEADROOM) == table


@pytest.mark.parametrize("method", RangeMethod)
def test_ranges_of_a_relu_output_start_at_exactly_zero(method: RangeMethod) -> None:
    assert estimate(histogram_of(relu_like(1)), method).low == 0.0


@pytest.mark.parametrize("method", RangeMethod)
@pytest.mark.parametrize("values", [[0.0, 3.0], [3.0, 4.0], [-2.0, 0.0], [-1e-30, 1e-30], [-1e30, 1e30]])
def test_ranges_exist_for_tensors_with_almost_no_values(method: RangeMethod, values: list[float]) -> None:
    found = estimate(histogram_of(np.array(values, dtype=np.float32)), method)
    assert found.low <= 0 <= found.high
    assert found.low < found.high
    assert found.amax > 0


@pytest.mark.parametrize("method", RangeMethod)
def test_ranges_exist_where_only_images_that_are_not_counted_reach_beyond_zero(method: RangeMethod) -> None:
    counter = HistogramCounter(Extremes(0.0, 50.0), scratch=Scratch())
    counter.add(np.zeros(100, np.float32))
    found = estimate(counter.histogram(), method)
    assert (found.low, found.high > 0, found.amax > 0) == (0, True, True)


def test_a_grid_of_nothing_but_zero_keeps_zero() -> None:
    assert covering_grid(0.0, 0.0) == (1.0, 0)


def test_minmax_keeps_the_extremes() -> None:
    values = two_sided(5)
    low, high = float(values.min()), float(values.max())
    assert estimate(histogram_of(values), RangeMethod.MINMAX) == Ranges(low, high, max(-low, high))


@pytest.mark.parametrize("share", [99.0, None])
def test_percentile_cuts_half_per_side_or_one_tail_of_the_magnitudes(share: float | None) -> None:
    values = two_sided(7, size=200_000)
    measured = histogram_of(values)
    found = percentile(measured, share) if share else estimate(measured, RangeMethod.PERCENTILE)
    cut, bin_width = 100 - (share or 99.99), float(np.ptp(values)) / BINS
    assert found.low == pytest.approx(np.percentile(values, cut / 2), abs=2 * bin_width)
    assert found.high == pytest.approx(np.percentile(values, 100 - cut / 2), abs=2 * bin_width)
    assert found.amax == pytest.approx(np.percentile(np.abs(values), 100 - cut), abs=2 * bin_width)
    assert (values < found.low).mean() <= cut / 200
    assert (values > found.high).mean() <= cut / 200


def test_mse_finds_the_grid_that_an_exhaustive_search_finds() -> None:
    values = relu_like(11, size=50_000)
    measured = histogram_of(values)
    found = estimate(measured, RangeMethod.MSE)

    def error(amax: float) -> float:
        scale = amax / 127
        return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).mean())

    best = min(error(share * measured.amax) for share in np.linspace(0.05, 1.0, 400))
    assert error(found.amax) <= 1.01 * best
    assert error(found.amax) < error(measured.amax)


def test_mse_clips_nothing_for_the_sake_of_zeros_which_every_grid_has() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[0], counts[-1] = 10**9, 1
    assert estimate(Histogram(0.0, 1.0, counts, 0 * counts), RangeMethod.MSE) == Ranges(0.0, 1.0, 1.0)


@pytest.mark.parametrize("method", [RangeMethod.PERCENTILE, RangeMethod.ENTROPY, RangeMethod.MSE])
def test_ranges_drop_a_single_outlier_far_from_all_else(method: RangeMethod) -> None:
    values = np.append(relu_like(13, size=500_000), np.float32(60.0))
    assert estimate(histogram_of(values), method).amax < 30.0


@pytest.mark.parametrize("levels", [128, 256])
@pytest.mark.parametrize("seed", range(3))
def test_entropy_equals_the_plain_loop_of_its_source(levels: int, seed: int) -> None:
    heavy_tail = np.random.default_rng(seed).standard_t(3, 10_000)  # half of it becomes the spike of zeros
    counts = histogram_of(np.maximum(heavy_tail, 0).astype(np.float32)).magnitudes()
    assert ranges._bins_of_least_divergence(counts, levels) == plain_entropy(counts, levels)


def test_entropy_counts_256_levels_where_every_code_is_above_zero() -> None:
    measured = histogram_of(relu_like(3))
    s8, u8 = (ranges._bins_of_least_divergence(measured.magnitudes(), levels) for levels in (128, 256))
    assert s8 != u8
    assert estimate(measured, RangeMethod.ENTROPY) == Ranges(0, measured.width * u8, measured.width * s8)


def test_entropy_keeps_values_that_begin_far_above_zero() -> None:
    """As averages do. Of the lowest filled bin alone, P and Q are alike."""
    found = estimate(
        histogram_of(np.random.default_rng(0).uniform(0.2, 1, 50_000).astype(np.float32)), RangeMethod.ENTROPY
    )
    assert found.high > 0.6
    assert found.amax > 0.6


def plain_entropy(counts: NDArray[np.int64], levels: int) -> int:
    """Migacz's pseudo-code, bin by bin."""
    mass = counts.astype(np.float64)
    mass[0] = mass[1]
    best = (np.inf, 0)
    for kept in range(len(mass), levels - 1, -ranges._ENTROPY_STRIDE):
        p = mass[:kept].copy()
        p[-1] += mass[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            start, stop = kept * level // levels, kept * (level + 1) // levels
            filled = p[start:stop] > 0
            if filled.any():
                q[start:stop][filled] = mass[start:stop].sum() / filled.sum()
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore"):
            divergence = float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())
        if mass[kept:].sum() <= mass[:kept].sum():  # of a single bin that is left P and Q are alike
            best = min(best, (divergence, kept), key=lambda pair: pair[0])
    return best[1]
