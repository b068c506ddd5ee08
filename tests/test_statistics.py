"""The statistics against the values that their sources print."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.statistics import (
    Interval,
    Proportion,
    bootstrap_ratio_interval,
    mcnemar_exact_p,
    mean_ratio_interval,
    mean_sqnr_db,
    median_interval,
    paired_difference_interval,
    quantile_uncertainty,
    summarize,
    unpaired_difference_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_table_1_of_newcombe_1998(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors_failures(counts: tuple[int, int]) -> None:
    successes, trials = counts
    found, mirrored = wilson_interval(successes, trials), wilson_interval(trials - successes, trials)
    assert 0 <= found.low <= successes / trials <= found.high <= 1
    assert math.isclose(found.low, 1 - mirrored.high, abs_tol=1e-12)


def test_paired_difference_interval_equals_the_example_of_fagerland_2014() -> None:
    """Table V there: airway hyper-responsiveness of 21 children, 1 against 7 discordant pairs."""
    found = paired_difference_interval(1, 7, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.508, -0.013)


def test_paired_difference_interval_keeps_a_width_where_nothing_differed() -> None:
    found = paired_difference_interval(0, 0, 1000)
    assert found.high == -found.low
    assert 0.0005 < found.high < 0.003  # about 2.8 / n: nobody may read "no difference at all" from 1,000 images


def test_paired_difference_interval_of_few_items_ends_where_differences_end() -> None:
    assert paired_difference_interval(5, 0, 5).high == 1
    assert paired_difference_interval(0, 5, 5).low == -1


def test_paired_difference_interval_covers_the_true_difference() -> None:
    """Of 2,000 simulated comparisons with a known difference, about 95 % hold it."""
    random = np.random.default_rng(0)
    cells = random.multinomial(500, (0.03, 0.02, 0.95), 2000)
    intervals = [paired_difference_interval(int(b), int(c), 500) for b, c, _ in cells]
    share = np.mean([i.low <= 0.01 <= i.high for i in intervals])
    assert 0.93 <= share <= 0.98


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(1, 7, 18 / 256), (7, 1, 18 / 256), (0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (10, 2, 158 / 4096)],
)
def test_mcnemar_exact_p_is_the_binomial_tail(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_exact_p(only_first, only_second) == pytest.approx(p, rel=1e-12)


def test_mcnemar_exact_p_does_not_overflow() -> None:
    assert mcnemar_exact_p(2000, 3000) < 1e-40
    assert 0.3 < mcnemar_exact_p(2480, 2520) < 0.7


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (30, 10, 21)])
def test_median_interval_takes_the_textbook_ranks(count: int, low: int, high: int) -> None:
    """The ranks of every table of distribution-free intervals of the median at 95 %."""
    assert median_interval(list(range(count, 0, -1))) == Interval(low, high)


def test_median_interval_of_thousands_is_that_of_the_normal_approximation() -> None:
    count = 5000
    found = median_interval([float(i) for i in range(count)])
    assert found.low == pytest.approx(count / 2 - 1.96 * math.sqrt(count) / 2, abs=1.5)
    assert found.high == count - 1 - found.low


def test_median_interval_refuses_samples_that_cannot_reach_95_percent() -> None:
    with pytest.raises(ValueError, match="5 samples are too few"):
        median_interval([1.0] * 5)


def test_summarize_gives_the_quantiles_and_a_spread_that_one_outlier_does_not_move() -> None:
    samples = [float(i) for i in range(1, 102)]
    quiet, disturbed = summarize(samples), summarize([*samples[:-1], 1e6])
    assert (quiet.count, quiet.p50, quiet.p90, quiet.p99) == (101, 51.0, 91.0, 100.0)
    assert quiet.spread == pytest.approx(50 / 51)
    assert disturbed.spread == quiet.spread


def test_summarize_gives_p99_9_of_a_thousand_samples_and_of_none_fewer() -> None:
    samples = [float(i) for i in range(1, 1002)]
    assert summarize(samples).p99_9 == 1000.0
    assert summarize(samples[:999]).p99_9 is None


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228)])
def test_mean_ratio_interval_has_the_width_of_student_s_table(freedom: int, t: float) -> None:
    """Against a reference without spread, Welch's degrees of freedom are those of one sample."""
    logs = np.linspace(-0.1, 0.1, freedom + 1)
    found = mean_ratio_interval(np.exp(logs).tolist(), [1.0, 1.0])
    half = t * logs.std(ddof=1) / math.sqrt(freedom + 1)
    assert (math.log(found.low), math.log(found.high)) == (
        pytest.approx(-half, rel=1e-3),
        pytest.approx(half, rel=1e-3),
    )


def test_mean_ratio_interval_of_what_never_varied_is_the_ratio() -> None:
    found = mean_ratio_interval([3.0, 3.0], [2.0, 2.0, 2.0])
    assert found.low == found.high == pytest.approx(1.5)


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, math.nan], [math.inf]])
def test_summarize_refuses_what_is_no_measurement(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="finite, above zero"):
        summarize(samples)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_unpaired_difference_interval_equals_table_2_of_newcombe_1998(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = unpaired_difference_interval(Proportion(*first), Proportion(*second))
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_bootstrap_ratio_interval_holds_the_ratio_as_often_as_it_says() -> None:
    """Independent rounds: at most 3 of 60 intervals are expected to miss; 8 or more have a chance of 1 in 100."""
    random = np.random.default_rng(5)
    draws = [[random.gamma(100, 0.1, (20, 10)) for _ in range(2)] for _ in range(60)]
    found = [bootstrap_ratio_interval(2 * new, old, quantile=0.5) for new, old in draws]
    assert sum(not interval.low <= 2 <= interval.high for interval in found) < 8


def test_bootstrap_ratio_interval_is_wider_where_rounds_differ() -> None:
    still = [[10.0, 10.1, 10.2]] * 20
    moving = [[10.0 + i, 10.1 + i, 10.2 + i] for i in range(20)]
    narrow, wide = (bootstrap_ratio_interval(rounds, still, quantile=0.5) for rounds in (still, moving))
    assert (narrow.low, narrow.high) == (1, 1)
    assert wide.high - wide.low > 0.2
    assert bootstrap_ratio_interval(moving, still, quantile=0.5) == wide


def test_bootstrap_ratio_interval_is_wider_where_neighbouring_rounds_are_alike() -> None:
    """The same rounds, in an order as a clock drifts and in any other: neighbours say less than strangers."""
    drifting = (10 + np.sin(np.arange(64) / 10))[:, None]
    shuffled = np.random.default_rng(7).permutation(drifting)
    still = np.full((64, 1), 10.0)
    slow, mixed = (bootstrap_ratio_interval(rounds, still, quantile=0.5) for rounds in (drifting, shuffled))
    assert slow.high - slow.low > 1.4 * (mixed.high - mixed.low)


def test_quantile_uncertainty_is_half_of_the_interval_as_a_share() -> None:
    """Of the median of n normal values that is 1.96 · 1.253 · deviation / sqrt(n)."""
    rounds = np.random.default_rng(8).normal(50, 5, (400, 1))
    assert quantile_uncertainty(rounds, quantile=0.5) == pytest.approx(1.96 * 1.253 * 0.1 / 20, rel=0.3)


def test_bootstrap_ratio_interval_draws_many_samples_in_parts() -> None:
    random = np.random.default_rng(6)
    large = random.gamma(100, 0.1, (10, 300_000))
    found = bootstrap_ratio_interval(large, large, quantile=0.9, resamples=8)
    assert 0.99 < found.low <= 1 <= found.high < 1.01


def test_mean_sqnr_is_that_of_each_row_and_a_bad_row_does_not_hide_the_others() -> None:
    exact = np.array([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]], np.float32)
    found = exact + np.array([[0.5, 0.0], [0.05, 0.0], [50.0, 0.0]], np.float32)
    assert mean_sqnr_db(exact, found) == pytest.approx((20 + 40 - 20) / 3, abs=1e-3)
    assert mean_sqnr_db(exact, exact) == pytest.approx(120)


def test_interval_reads_and_holds_what_lies_between_its_ends_and_reaches_upwards() -> None:
    interval = Interval(-0.125, 0.5)
    assert f"{interval:+.2f}, {interval.percent():.1f}" == "-0.12 to +0.50, -12.5 to 50.0"
    assert [value in interval for value in (-0.2, -0.125, 0, 0.5, 0.6)] == [False, True, True, True, False]
    with pytest.raises(ValueError, match=r"^an interval cannot reach from 0\.5 down to 0\.4$"):
        Interval(0.5, 0.4)
