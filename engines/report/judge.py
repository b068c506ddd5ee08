"""Two measurements, one later than the other: what changed, by how much, and whether that can be told from noise."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from statistics import geometric_mean, median

import numpy as np

from googlenet_edge.engines.accuracy import compare
from googlenet_edge.engines.evaluate import Answers, BundleAnswers
from googlenet_edge.engines.measurement import BundleMeasurement, Samples, samples
from googlenet_edge.engines.report.material import Material
from googlenet_edge.engines.report.subjects import (
    Subject,
    differing_circumstances,
    shown_text,
    software_changes,
    subjects_of,
)
from googlenet_edge.errors import DataError
from googlenet_edge.statistics import (
    FEWEST_FOR_P99_9,
    Interval,
    Proportion,
    bootstrap_ratio_interval,
    mean_ratio_interval,
    unpaired_difference_interval,
)

RUN_TO_RUN_PERCENT = 1.75
"""Two processes of one bundle differ by so much for reasons that no round of either shows, such as where in memory its
weights lie: intervals of times are that much wider on both sides than what the rounds say."""

_MOST_DRIFT = 0.1
"""From hour to hour a machine becomes slower or faster by such a share at most; 8 % was seen."""

_NOTES_PERCENT = 0.05
"""The same model built again: its manifest tells of other seconds, in a few letters more or less."""

_Pair = tuple[Subject, Subject]
"""A bundle before and now."""


class Metric(Enum):
    """What can be compared."""

    P50 = "p50"
    P90 = "p90"
    P99 = "p99"
    P99_9 = "p99.9"
    ENERGY = "energy"
    COLD_START = "cold_start"
    THROUGHPUT = "throughput"
    MEMORY = "memory"
    SIZE = "size"
    TOP1 = "top1"

    @property
    def unit(self) -> str:
        """Of the values."""
        return _UNITS.get(self, "ms")

    @property
    def change_unit(self) -> str:
        """Of the change: percentage points for accuracy, percent for everything else."""
        return "points" if self is Metric.TOP1 else "%"

    @property
    def digits(self) -> int:
        """Of a change."""
        return 2 if self is Metric.TOP1 else 1

    @property
    def takes(self) -> str:
        """How much must be measured on either side, in words; empty where anything will do."""
        return _TAKES.get(self, "")


_UNITS = {
    **{Metric.ENERGY: "mJ", Metric.THROUGHPUT: "images/s", Metric.TOP1: "%"},
    **dict.fromkeys((Metric.MEMORY, Metric.SIZE), "MB"),
}
_LEAST = 1e-9
"""No time in milliseconds or energy in millijoules is smaller."""
_TAKES = {
    Metric.P99_9: f"at least {FEWEST_FOR_P99_9:,} samples",
    Metric.ENERGY: "at least 2 turns on a machine with sensors",
    Metric.COLD_START: "at least 2 cold starts",
    Metric.TOP1: "an accuracy on both, simulated on both or on neither",
}
_QUANTILES = {Metric.P50: 0.5, Metric.P90: 0.9, Metric.P99: 0.99, Metric.P99_9: 0.999}


@dataclass(frozen=True, slots=True)
class Change:
    """``change`` and its 95 % interval are in the metric's `change_unit`. ``real``: not to be explained by noise.

    ``beside`` names the bundle whose own change was taken out, which says what the machine did; see `_Yardstick`.
    """

    metric: Metric
    before: float
    after: float
    change: float
    interval: Interval
    real: bool
    beside: str = ""

    @property
    def words(self) -> str:
        """Such as ``+1.2 %``."""
        return f"{self.change:+.{self.metric.digits}f} {self.metric.change_unit}"

    @property
    def within(self) -> str:
        """Its interval; nothing where the change is exact."""
        return "" if self.interval.low == self.interval.high else f"{self.interval:+.{self.metric.digits}f}"


@dataclass(frozen=True, slots=True)
class _Yardstick:
    """A bundle that took turns with another in both runs, the same in both: model, engine, machine and all software.

    A machine's clock may differ by several percent from hour to hour (other guests of a host, heat), for all bundles
    alike. So times are taken in units of what this bundle took in the same round.
    """

    label: str
    before: Samples
    after: Samples


@dataclass(frozen=True, slots=True)
class Matched:
    """A bundle of the baseline and the bundle of that name today, with what changed between them."""

    before: Subject
    after: Subject
    changes: tuple[Change, ...]


def judge(baseline: Material, now: Material) -> tuple[Matched, ...]:
    """Every bundle that both have, by its path, or else by the name of its folder where that path is new.

    A single one on both sides matches whatever its name.

    Raises:
        DataError: the two have no bundle in common, or one of them is of several precisions.
    """
    old, new = subjects_of(baseline), subjects_of(now)
    here = {_place(subject) for subject in new}
    matched = [(a, b) for b in new for a in _counterparts(b, old, here)]
    if not matched and len(old) == len(new) == 1:
        matched = [(old[0], new[0])]
    if not matched:
        raise DataError(
            f"{baseline.sources[0].name} and {now.sources[0].name} have no bundle of the same name"
            f" ({_names(old)} against {_names(new)}); measure the same bundles"
        )
    _check_matched(matched)
    answers = baseline.answers, now.answers
    return tuple(Matched(*pair, _changes(*pair, *answers, beside=_yardstick(pair, matched))) for pair in matched)


def without_counterpart(baseline: Material, now: Material, matched: Sequence[Matched]) -> tuple[list[str], list[str]]:
    """The bundles of the baseline that were not measured now, and those of now that it lacks, each with its engine."""
    met = [subject.bundle for pair in matched for subject in (pair.before, pair.after)]
    old, new = (
        [
            shown_text(f"{bundle.name} ({bundle.engine.backend})")
            for source in material.sources
            for bundle in source.measurement.bundles
            if not any(bundle is one for one in met)
        ]
        for material in (baseline, now)
    )
    return old, new


def answers_of_other_engines(material: Material) -> tuple[str, ...]:
    """What was measured by one engine and answered by another alone, which may answer otherwise."""
    return tuple(
        shown_text(f"{bundle.name} was measured with {bundle.engine.backend}, and its answers are of {others[0]}")
        for source in material.sources
        for bundle in source.measurement.bundles
        if not _answers_of(bundle, material.answers) and (others := _backends(bundle, material.answers))
    )


def _backends(bundle: BundleMeasurement, answers: Sequence[Answers]) -> list[str]:
    return [one.backend for each in answers for one in each.bundles if one.model_sha256 == bundle.model_sha256]


def latency_change(metric: Metric, before: Samples, after: Samples, *, beside: _Yardstick | None = None) -> Change:
    """A quantile of all samples against the baseline's, with the interval of a bootstrap over rounds, widened.

    ``before`` and ``after`` of the change are milliseconds as measured; the change itself may be ``beside`` another
    bundle's.
    """
    old, new = _quantile(before, metric), _quantile(after, metric)
    if beside:
        before, after = _in_units_of(before, beside.before), _in_units_of(after, beside.after)
    interval = _widened(bootstrap_ratio_interval(after.rounds_ms, before.rounds_ms, quantile=_QUANTILES[metric]))
    change = 100 * (_quantile(after, metric) / _quantile(before, metric) - 1)
    return Change(metric, old, new, change, interval, 0 not in interval, beside.label if beside else "")


def _in_units_of(found: Samples, other: Samples) -> Samples:
    """Every time divided by the median of the other bundle's in the same round."""
    units = [median(round_ms) for round_ms in other.rounds_ms]
    pairs = zip(found.rounds_ms, units, strict=True)
    return samples([tuple(ms / unit for ms in round_ms) for round_ms, unit in pairs])


def _yardstick(pair: _Pair, matched: Sequence[_Pair]) -> _Pair | None:
    """The slowest, and so the steadiest, of the bundles that are the same in both runs and took turns with this one.

    None where it changed by more than a machine drifts: then something else made it so, and perhaps all bundles alike.
    """
    others = [other for other in matched if other is not pair and _is_the_same(*other)]
    beside = [other for other in others if all(map(_took_turns, other, pair))]
    slowest = max(beside, key=lambda other: other[0].latency_ms.p50, default=None)
    return slowest if slowest and abs(_drift(slowest)) <= _MOST_DRIFT else None


def _drift(same: _Pair) -> float:
    """By what share of its p50 a bundle that is the same changed."""
    before, after = same
    return after.latency_ms.p50 / before.latency_ms.p50 - 1


def _is_the_same(before: Subject, after: Subject) -> bool:
    a, b = before.bundle, after.bundle
    same = (a.model_sha256, a.engine) == (b.model_sha256, b.engine)
    return same and not differing_circumstances(before, after) and not software_changes(before.source, after.source)


def _took_turns(one: Subject, other: Subject) -> bool:
    """Whether two were measured together, on the same part of a device."""
    a, b = one.bundle, other.bundle
    rounds = len(a.latency.rounds_ms) == len(b.latency.rounds_ms)
    placed = (a.engine.device, a.engine.unit) == (b.engine.device, b.engine.unit)
    return one.source is other.source and rounds and placed


def _widened(ratio: Interval, *, drift: float = 0.0) -> Interval:
    """Of a ratio within both runs → of the change in percent, with what two processes and the machine differ by."""
    share = RUN_TO_RUN_PERCENT / 100 + drift
    return Interval(100 * (ratio.low * (1 - share) - 1), 100 * (ratio.high * (1 + share) - 1))


def _quantile(samples: Samples, metric: Metric) -> float:
    return float(np.quantile(np.asarray(samples.rounds_ms, np.float64), _QUANTILES[metric]))


def _changes(
    before: Subject, after: Subject, old: Sequence[Answers], new: Sequence[Answers], *, beside: _Pair | None
) -> tuple[Change, ...]:
    a, b = before.bundle, after.bundle
    unit = _Yardstick(beside[1].label, *(other.bundle.latency for other in beside)) if beside else None
    starts = ([start.total_ms for start in bundle.cold_starts] for bundle in (a, b))
    times = partial(latency_change, before=a.latency, after=b.latency, beside=unit)
    found = [
        *(times(metric) for metric in (Metric.P50, Metric.P90, Metric.P99)),
        times(Metric.P99_9) if _has_tail(a.latency) and _has_tail(b.latency) else None,
        _throughput_change(a, b, beside),
        _spread_change(Metric.ENERGY, *(bundle.energy.turns_mj if bundle.energy else () for bundle in (a, b))),
        _spread_change(Metric.COLD_START, *starts, drift=abs(_drift(beside)) if beside else 0.0),
        _plain(Metric.MEMORY, a.peak_memory_mb, b.peak_memory_mb, least=RUN_TO_RUN_PERCENT),
        _plain(Metric.SIZE, a.bundle_bytes / 1e6, b.bundle_bytes / 1e6, least=_NOTES_PERCENT),
        _paired_top1_change(_answers_of(a, old), _answers_of(b, new)) or _top1_change(before, after),
    ]
    return tuple(change for change in found if change)


def _has_tail(found: Samples) -> bool:
    """Whether there are samples enough for a p99.9."""
    return sum(map(len, found.rounds_ms)) >= FEWEST_FOR_P99_9


def _spread_change(
    metric: Metric, before: Sequence[float], after: Sequence[float], *, drift: float = 0.0
) -> Change | None:
    """Of a few values on either side, by their geometric means; None where a side has no spread to judge by.

    ``drift`` is by what share the machine itself became slower or faster; the interval is as much wider.
    """
    if min(len(before), len(after)) < 2 or min(*before, *after) < _LEAST:
        return None
    interval = _widened(mean_ratio_interval(after, before), drift=drift)
    old, new = geometric_mean(before), geometric_mean(after)
    return Change(metric, old, new, 100 * (new / old - 1), interval, 0 not in interval)


def _throughput_change(before: BundleMeasurement, after: BundleMeasurement, beside: _Pair | None) -> Change | None:
    """At the way of working that was fastest in the baseline, as far as both measured it.

    In each of its rounds the other bundle takes a turn at it, too; where that is missing, nothing is taken out.
    """
    old, new = _ways(before), _ways(after)
    both = [way for way in old if way in new]
    if not both:
        return None
    best = max(both, key=lambda way: way[0] / _quantile(old[way], Metric.P50))
    others = [_ways(other.bundle).get(best) for other in beside or ()]
    turns = [len(found.rounds_ms) if found else 0 for found in others]
    fits = turns == [len(found[best].rounds_ms) for found in (old, new)]
    unit = _Yardstick(beside[1].label, *filter(None, others)) if beside and fits else None
    time = latency_change(Metric.P50, old[best], new[best], beside=unit)
    old_rate, new_rate = (1e3 * best[0] / ms for ms in (time.before, time.after))
    change, low, high = (
        100 * (1 / (1 + percent / 100) - 1) for percent in (time.change, time.interval.high, time.interval.low)
    )
    interval = Interval(low, high)
    return Change(Metric.THROUGHPUT, old_rate, new_rate, change, interval, 0 not in interval, time.beside)


def _ways(bundle: BundleMeasurement) -> dict[tuple[int, int], Samples]:
    """By images at once, and streams."""
    return {(batch.batch, batch.streams): batch.latency for batch in bundle.throughput}


def _plain(metric: Metric, before: float | None, after: float | None, *, least: float) -> Change | None:
    """Of what has one value and no spread."""
    if before is None or after is None:
        return None
    change = 100 * (after / before - 1)
    return Change(metric, before, after, change, Interval(change, change), change != 0 and abs(change) >= least)


def _paired_top1_change(
    before: tuple[Answers, BundleAnswers] | None, after: tuple[Answers, BundleAnswers] | None
) -> Change | None:
    """Image by image, where both were asked about the same ones."""
    if before is None or after is None:
        return None
    (old, old_bundle), (new, new_bundle) = before, after
    if (old.images, old.labels, old.class_names) != (new.images, new.labels, new.class_names):
        return None
    first, second = old.evaluation(old_bundle), new.evaluation(new_bundle)
    found, shares = compare(first, second), (100 * first.accuracy.top1, 100 * second.accuracy.top1)
    if old_bundle.model_sha256 == new_bundle.model_sha256 and found.agreement == 1:
        return Change(Metric.TOP1, *shares, 0.0, Interval(0.0, 0.0), real=False)
    return Change(Metric.TOP1, *shares, found.top1_change_points, found.top1_change_interval, found.differs)


def _top1_change(before: Subject, after: Subject) -> Change | None:
    """From shares alone, as if of different images, so that only large changes are told from chance.

    None where one is simulated and the other is not: that is no change of the model.
    """
    old, new = before.accuracy, after.accuracy
    if old is None or new is None or before.simulated != after.simulated:
        return None
    shares = 100 * old.top1, 100 * new.top1
    if before.bundle.model_sha256 == after.bundle.model_sha256 and old == new:
        return Change(Metric.TOP1, *shares, 0.0, Interval(0.0, 0.0), real=False)
    interval = unpaired_difference_interval(*(Proportion(round(a.top1 * a.images), a.images) for a in (new, old)))
    return Change(Metric.TOP1, *shares, shares[1] - shares[0], interval.percent(), 0 not in interval)


def _answers_of(bundle: BundleMeasurement, answers: Sequence[Answers]) -> tuple[Answers, BundleAnswers] | None:
    model = bundle.model_sha256, bundle.engine.backend
    return next(((a, b) for a in answers for b in a.bundles if b.is_of(*model)), None)


def _counterparts(subject: Subject, others: Sequence[Subject], here: Set[tuple[str, str]]) -> list[Subject]:
    """Those of the same path, or where there is none of the same name, on the same engine.

    ``here``: the paths and engines of today, whose bundles have their counterparts.
    """
    name, backend = _place(subject)
    alike = [each for each in others if each.bundle.engine.backend == backend]
    exact = [each for each in alike if each.bundle.name == name]
    moved = [each for each in alike if _place(each) not in here]
    return exact or [each for each in moved if PurePath(each.bundle.name).name == PurePath(name).name]


def _place(subject: Subject) -> tuple[str, str]:
    return subject.bundle.name, subject.bundle.engine.backend


def _names(subjects: Sequence[Subject]) -> str:
    return ", ".join(subject.label for subject in subjects[:4])


def _check_matched(matched: Sequence[_Pair]) -> None:
    for before, after in matched:
        kinds = [(b.precision.value, b.engine.crop, b.engine.classes) for b in (before.bundle, after.bundle)]
        if kinds[0] != kinds[1]:
            was, now = (f"{kind} of {crop}×{crop} pixels and {classes} classes" for kind, crop, classes in kinds)
            raise DataError(f"{after.label} is {now} now, and was {was} in the baseline; compare the same model")
