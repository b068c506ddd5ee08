"""The statistics of accuracy and of timing: pure functions of counts and samples, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

CONFIDENCE = 0.95
FEWEST_FOR_P99_9 = 1000
"""Of fewer samples none is expected beyond the 99.9 % point."""
_MOST_REDRAWN = 1 << 20
_NOTHING = 1e-30
Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: ± Z holds 95 %."""

# What a number in a file may be; reading a file checks it.
Count = Annotated[int, Meta(ge=1, le=10**12)]
"""How many there are, of what is always there."""
Tally = Annotated[int, Meta(ge=0, le=10**12)]
"""How often something came about, perhaps never."""
Lasting = Annotated[float, Meta(ge=1e-9, le=1e12)]
"""A time that something took."""
NonNegative = Annotated[float, Meta(ge=0, le=1e12)]
"""A number that is not below zero."""
Figure = Annotated[float, Meta(ge=-1e12, le=1e12)]
"""Any number that can be of something."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""A part of a whole."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, ``low <= high``, in the unit of what it is an interval of."""

    low: Figure
    high: Figure

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"an interval cannot reach from {self.low:g} down to {self.high:g}")

    def __format__(self, spec: str) -> str:
        """Such as ``0.123 to 0.456``, both as ``spec`` says."""
        return f"{self.low:{spec}} to {self.high:{spec}}"

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def percent(self) -> Interval:
        """That of a hundred times the value."""
        return Interval(100 * self.low, 100 * self.high)


@dataclass(frozen=True, slots=True)
class Summary:
    """Quantiles of a sample, in its unit. ``spread`` is (p75 - p25) / p50, which a few outliers do not move.

    ``p99_9`` is None, not measured, below `FEWEST_FOR_P99_9` samples.
    """

    count: int
    p50: float
    p90: float
    p99: float
    spread: float
    p99_9: float | None = None


class Proportion(NamedTuple):
    """How many of how many trials succeeded."""

    successes: int
    trials: int


def wilson_interval(successes: int, trials: int) -> Interval:
    """95 % score interval of a proportion: holds its level near 0 and 1, where the textbook's ± interval fails.

    Source: Wilson 1927; method 3 of Newcombe, "Two-sided confidence intervals for the single proportion", Statistics
    in Medicine 17 (1998) 857-872.
    """
    share = successes / trials
    centre = share + Z * Z / (2 * trials)
    half = Z * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    scale = 1 + Z * Z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return Interval(low, high)


def paired_difference_interval(only_first: int, only_second: int, pairs: int) -> Interval:
    """95 % interval of the difference of two proportions (first - second) that were found on the same items.

    Args:
        only_first: items on which the first alone succeeded.
        only_second: items on which the second alone succeeded.
        pairs: all items.

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data", Journal of Educational and Behavioral Statistics 37 (2012) 479-488; recommended by Fagerland,
    Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875. It keeps a width where nothing differed.
    """
    total = pairs + 2
    first, second = (only_first + 1) / total, (only_second + 1) / total
    difference = first - second
    half = Z * math.sqrt((first + second - difference**2) / total)
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


def unpaired_difference_interval(first: Proportion, second: Proportion) -> Interval:
    """95 % interval of the difference of two proportions (first - second) that were found on different items.

    Source: method 10 of Newcombe, "Interval estimation for the difference between independent proportions", Statistics
    in Medicine 17 (1998) 873-890: the distances to Wilson's limits, squared and added.
    """
    one, two = wilson_interval(*first), wilson_interval(*second)
    share, other = first.successes / first.trials, second.successes / second.trials
    below = math.hypot(share - one.low, two.high - other)
    above = math.hypot(one.high - share, other - two.low)
    return Interval(share - other - below, share - other + above)


def mcnemar_exact_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p of "both succeed equally often", from the items on which exactly one of the two succeeded.

    Source: McNemar 1947 with the binomial distribution in place of chi-squared, as in Fagerland, Lydersen and Laake
    2014. Integers throughout, so that large counts neither overflow nor lose digits.
    """
    trials = only_first + only_second
    tail = _binomial_tail(min(only_first, only_second), trials)
    p: float = 2 * tail / 2**trials
    return min(1.0, p)


def median_interval(samples: Sequence[float]) -> Interval:
    """At least 95 % interval of the median, between two order statistics: no assumption about the distribution.

    Source: Conover, Practical Nonparametric Statistics (3rd ed. 1999), section 3.2. Deterministic, unlike a bootstrap.

    Raises:
        ValueError: fewer than 6 samples, which cannot reach 95 %.
    """
    count = len(samples)
    if count < 6:
        raise ValueError(f"{count} samples are too few for a 95 % interval of the median; at least 6 are needed")
    limit, outcomes = (1 - CONFIDENCE) / 2, 2**count
    rank = 0  # the largest for which both tails outside [rank, count - 1 - rank] together hold at most 5 %
    heads, tail = count, 1 + count  # outcomes of fair coins with exactly, and with at most, rank + 1 heads
    while tail / outcomes <= limit:
        rank += 1
        heads = heads * (count - rank) // (rank + 1)
        tail += heads
    ordered = sorted(samples)
    return Interval(ordered[rank], ordered[count - 1 - rank])


def bootstrap_ratio_interval(
    rounds: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], *, quantile: float, resamples: int = 1000
) -> Interval:
    """95 % interval of a quantile of all samples divided by that of the reference's, the two measured apart.

    Rounds are drawn with replacement, in runs of neighbours, so that what drifts slowly stays together; of each kind
    as many as there are. The draws are seeded: the same samples give the same interval.

    Source: the circular block bootstrap of Politis and Romano, "A circular block-resampling procedure for stationary
    data" (1992), with blocks of the cube root of the number of rounds as in Hall, Horowitz and Jing, Biometrika 82
    (1995) 561-574; percentile interval.

    Raises:
        ValueError: no round, or rounds of different lengths.
    """
    random = np.random.default_rng(0)
    ratios = _resampled(rounds, quantile, resamples, random) / _resampled(reference, quantile, resamples, random)
    low, high = np.quantile(ratios, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Interval(float(low), float(high))


def quantile_uncertainty(rounds: Sequence[Sequence[float]], *, quantile: float, resamples: int = 200) -> float:
    """Half of the 95 % interval of a quantile of all samples, as a share of it.

    Rounds are drawn as in `bootstrap_ratio_interval`, with the same errors.
    """
    found = _resampled(rounds, quantile, resamples, np.random.default_rng(0))
    low, middle, high = np.quantile(found, ((1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2))
    return float((high - low) / (2 * middle))


def summarize(samples: Sequence[float]) -> Summary:
    """The quantiles of a sample, interpolated linearly (type 7 of Hyndman and Fan 1996).

    Raises:
        ValueError: no sample, or one that is not finite and above zero.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all() or values.min() <= 0:
        raise ValueError("samples must be finite, above zero, and at least one")
    p25, p50, p75, p90, p99, p99_9 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75, 0.9, 0.99, 0.999)))
    tail = p99_9 if values.size >= FEWEST_FOR_P99_9 else None
    return Summary(count=values.size, p50=p50, p90=p90, p99=p99, spread=(p75 - p25) / p50, p99_9=tail)


def mean_ratio_interval(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """95 % interval of the geometric mean of ``values`` divided by that of ``reference``, the two measured apart.

    For few values, at least 2 of either and all above zero, of which each stands for itself: a bootstrap of three is
    too narrow.

    Source: Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34 (1947) 28-35, on logarithms.
    """
    logs = [np.log(np.asarray(side, np.float64)) for side in (values, reference)]
    variances = [float(side.var(ddof=1)) / side.size for side in logs]
    total, change = sum(variances), float(logs[0].mean() - logs[1].mean())
    if total == 0:
        return Interval(math.exp(change), math.exp(change))
    freedom = total**2 / sum(v**2 / (side.size - 1) for v, side in zip(variances, logs, strict=True))
    half = _student_t(freedom) * math.sqrt(total)
    return Interval(math.exp(change - half), math.exp(change + half))


def mean_sqnr_db(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The mean over the rows of two arrays ``(rows, values)`` of signal over noise in dB: no bad row hides all others.

    A row counts as 120 dB at most.
    """
    return float(np.mean(-10 * np.log10(noise_shares(exact, found))))


def noise_shares(exact: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """Noise over signal of the rows of two arrays ``(rows, values)``: float64 ``(rows,)``, 1e-12 or more."""
    signal = np.square(exact, dtype=np.float64).sum(axis=1) + _NOTHING
    shares: NDArray[np.float64] = np.square(found.astype(np.float64) - exact).sum(axis=1) / signal
    return np.maximum(shares, 1e-12)


def _student_t(freedom: float) -> float:
    """The 97.5 % point of Student's t: t = sqrt(freedom) tan(a) where a has the density cos(a) ** (freedom - 1)."""
    angles = np.linspace(0, math.pi / 2, 20001)
    density = np.cos(angles) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = float(np.interp(CONFIDENCE * below[-1], below, angles))
    return math.sqrt(freedom) * math.tan(angle)


def _resampled(
    rounds: Sequence[Sequence[float]], quantile: float, resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """float64 ``(resamples,)``: the quantile of as many redrawn samples, a few at a time so that memory is bounded."""
    table = np.asarray(rounds, np.float64)
    count = len(table)
    block = round(count ** (1 / 3))
    starts = random.integers(0, count, (resamples, -(-count // block)))

    def found(some: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen = (some[:, :, None] + np.arange(block)).reshape(len(some), -1)[:, :count] % count
        quantiles: NDArray[np.float64] = np.quantile(table[chosen].reshape(len(some), -1), quantile, axis=1)
        return quantiles

    parts = np.array_split(starts, min(resamples, 1 + resamples * table.size // _MOST_REDRAWN))
    return np.concatenate([found(part) for part in parts])


def _binomial_tail(most: int, trials: int) -> int:
    """The number of the ``2**trials`` outcomes of fair coins with at most ``most`` heads."""
    outcomes = total = 1
    for heads in range(most):
        outcomes = outcomes * (trials - heads) // (heads + 1)
        total += outcomes
    return total
