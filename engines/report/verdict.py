"""The verdict: what the figures come to, in one sentence that claims no more than they show.

And the gate: rules such as ``p50>+5%,top1<-0.2``, and which of them two measurements break.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.measurement import LatencyRatio
from googlenet_edge.engines.report.judge import RUN_TO_RUN_PERCENT, Change, Matched, Metric
from googlenet_edge.engines.report.subjects import Subject, differing_circumstances
from googlenet_edge.errors import ConfigError, DataError

_RULE = re.compile(r"(?P<metric>[a-z0-9_.]+)\s*(?P<side>[<>])\s*(?P<limit>[+-]?\d{1,6}(?:\.\d{1,6})?)(?P<percent>%?)")

_STEADIER = {
    **dict.fromkeys((Metric.P50, Metric.P90, Metric.P99, Metric.P99_9), "measure both with more --rounds"),
    **dict.fromkeys((Metric.THROUGHPUT, Metric.COLD_START), "measure both with --rounds of 100 and more"),
    Metric.ENERGY: "measure both while nothing else runs",
    Metric.TOP1: "give the answers of both (eval --out), on more images where they are given",
}
"""What would narrow the interval of a change; size and memory have none."""


class Tone(Enum):
    """How the verdict is to be taken."""

    GOOD = "good"
    MIXED = "mixed"
    BAD = "bad"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence, and the figures that it rests on."""

    headline: str
    details: tuple[str, ...]
    tone: Tone


def verdict_of(subjects: Sequence[Subject], matched: Sequence[Matched] = ()) -> Verdict:
    """Against the baseline, or else the fastest bundle against its reference, or else what is there."""
    if matched:
        return _against_baseline(matched)
    machines = [list(group) for _, group in groupby(subjects, key=lambda subject: subject.source.name)]
    verdicts = [_of_one_measurement(group) for group in machines]
    if len(verdicts) == 1:
        return verdicts[0]
    fastest = min(subjects, key=_p50)
    alike = [s.label for s in subjects if _p50(s) <= (1 + RUN_TO_RUN_PERCENT / 100) * _p50(fastest)]
    verb = "is" if len(alike) == 1 else f"(within {RUN_TO_RUN_PERCENT} %) are"
    names, time = " and ".join(alike), milliseconds(_p50(fastest))
    headline = f"The fastest of {len(subjects)} {verb} {names}: {time} for an image."
    return Verdict(headline, tuple(verdict.headline for verdict in verdicts), Tone.NEUTRAL)


def milliseconds(value: float) -> str:
    """Three or four digits that count."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def figure(value: float) -> str:
    """Four digits that count, and never a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def accuracy_words(accuracy: Accuracy | None, *, simulated: bool = False) -> str:
    """Top-1 with its interval, or that nobody measured it."""
    if accuracy is None:
        return "not measured"
    within = accuracy.top1_interval.percent()
    return f"{100 * accuracy.top1:.2f} % ({within:.1f}){', simulated' if simulated else ''}"


def change_words(comparison: Comparison | None) -> str:
    """The change of top-1 with its interval."""
    if comparison is None:
        return "not measured"
    return f"{comparison.top1_change_points:+.2f} points ({comparison.top1_change_interval:+.2f})"


def is_worse(change: Change) -> bool:
    """Whether the change is real, and in the direction that nobody wants."""
    more_is_better = change.metric in (Metric.THROUGHPUT, Metric.TOP1)
    return change.real and (change.change < 0) == more_is_better


def _of_one_measurement(subjects: Sequence[Subject]) -> Verdict:
    compared = [subject for subject in subjects if subject.ratio]
    if compared:
        return _of_comparison(min(compared, key=_ratio), subjects)
    fastest = min(subjects, key=_p50)
    details = tuple(_figures(subject) for subject in subjects)
    return Verdict(f"{fastest.label} answers in {milliseconds(_p50(fastest))}.", details, Tone.NEUTRAL)


def _of_comparison(subject: Subject, subjects: Sequence[Subject]) -> Verdict:
    reference = next(s for s in subjects if s.is_reference)
    assert subject.ratio is not None
    speed, faster = _speed(subject.ratio, reference.label)
    accuracy, lost = _accuracy(subject)
    good = faster and subject.comparison and not lost and not subject.source.measurement.warnings
    tone = Tone.GOOD if good else Tone.BAD if not faster and lost else Tone.MIXED
    details = [
        f"{milliseconds(subject.latency_ms.p50)} against {milliseconds(reference.latency_ms.p50)} for an image (p50):"
        f" a ratio of {subject.ratio.ratio:.3f}, 95 % interval {subject.ratio.interval:.3f}."
    ]
    if subject.accuracy and subject.comparison:
        details.append(
            f"Top-1 {_top1(subject)} on {subject.accuracy.images} images:"
            f" {change_words(subject.comparison)} against {accuracy_words(subject.comparison.reference)} of"
            f" {subject.compared_with}; {100 * subject.comparison.agreement:.2f} % of the predictions are equal."
        )
    return Verdict(f"{subject.label} {speed}, {accuracy}.", tuple(details), tone)


def _speed(ratio: LatencyRatio, reference: str) -> tuple[str, bool]:
    """(what to say, whether it is faster beyond doubt, and by more than half a percent)."""
    speed = 1 / ratio.ratio
    if "1.00" in (f"{speed:.2f}", f"{ratio.ratio:.2f}") and 1 not in ratio.interval:
        return f"is as fast as {reference} within half a percent", False
    if ratio.interval.high < 1:
        return f"is {speed:.{2 if speed < 1.1 else 1}f}× as fast as {reference}", True
    if ratio.interval.low > 1:
        return f"takes {ratio.ratio:.2f}× the time of {reference}", False
    return f"is as fast as {reference}, as far as can be told", False


def _top1(subject: Subject) -> str:
    return accuracy_words(subject.accuracy, simulated=subject.simulated)


def _accuracy(subject: Subject) -> tuple[str, bool]:
    """(what to say, whether accuracy is lost beyond doubt)."""
    comparison = subject.comparison
    against = f"against {subject.compared_with}{' (simulated)' if subject.simulated else ''}"
    if comparison is None:
        return f"and its accuracy was not {'compared' if subject.accuracy else 'measured'}", False
    points = comparison.top1_change_points
    if not comparison.differs:
        return f"and no change of its accuracy {against} can be told from chance", False
    if points < 0:
        return f"and it loses {-points:.2f} points of accuracy {against}", True
    return f"and it gains {points:.2f} points of accuracy {against}", False


def _against_baseline(matched: Sequence[Matched]) -> Verdict:
    changes = [(pair.after.label, change) for pair in matched for change in pair.changes]
    real = [(label, change) for label, change in changes if change.real]
    details = tuple(f"{label}: {change_sentence(change)}" for label, change in real)
    worse = [(label, change) for label, change in real if is_worse(change)]
    if not real:
        return Verdict("Nothing that changed since the baseline can be told from noise.", (), Tone.GOOD)
    if not worse:
        label, change = real[0]
        return Verdict(f"{label} is better than its baseline: {_short(change)}.", details, Tone.GOOD)
    label, change = worse[0]
    tone = Tone.BAD if len(worse) == len(real) else Tone.MIXED
    return Verdict(f"{label} is worse than its baseline: {_short(change)}.", details, tone)


def _short(change: Change) -> str:
    return f"{change.metric.value} {change.words}"


def _figures(subject: Subject) -> str:
    accuracy = f", top-1 {_top1(subject)}" if subject.accuracy else ""
    latency = subject.latency_ms
    return f"{subject.label}: {milliseconds(latency.p50)} (p50), {milliseconds(latency.p99)} (p99){accuracy}."


def _p50(subject: Subject) -> float:
    return subject.latency_ms.p50


def _ratio(subject: Subject) -> float:
    return subject.ratio.ratio if subject.ratio else float("inf")


class Side(Enum):
    """On which side of its limit a change fails."""

    ABOVE = ">"
    BELOW = "<"


@dataclass(frozen=True, slots=True)
class Rule:
    """A change of ``metric`` beyond ``limit`` fails; ``limit`` is in the metric's `change_unit`."""

    metric: Metric
    side: Side
    limit: float

    def __str__(self) -> str:
        most = "at most" if self.side is Side.ABOVE else "at least"
        return f"{most} {self.limit:+g} {self.metric.change_unit}"

    def undecided_by(self, change: Change) -> bool:
        """Whether the change cannot be told from none, nor from one beyond the limit, and measuring more would help."""
        low, high = change.interval.low, change.interval.high
        reaches = high > self.limit if self.side is Side.ABOVE else low < self.limit
        least = 0 if change.metric is Metric.TOP1 else RUN_TO_RUN_PERCENT
        return reaches and not change.real and abs(self.limit) > least and change.metric in _STEADIER

    def broken_by(self, change: Change) -> bool:
        """Whether the change is beyond the limit, and no noise."""
        beyond = change.change > self.limit if self.side is Side.ABOVE else change.change < self.limit
        return beyond and change.real


def parse_rules(text: str) -> tuple[Rule, ...]:
    """``METRIC>LIMIT`` or ``METRIC<LIMIT``, with commas between. Raises `ConfigError`."""
    return tuple(_parse_rule(part.strip()) for part in text.split(","))


def check_circumstances(matched: Sequence[Matched]) -> None:
    """Raises `DataError` where another machine or other settings were measured."""
    for pair in matched:
        different = differing_circumstances(pair.before, pair.after)
        if different:
            raise DataError(
                f"{pair.before.source.name} and {pair.after.source.name} were measured in different circumstances:"
                f" {', '.join(different)}; measure both in the same ones, or compare all the same with --force"
            )


def check_complete(rules: Sequence[Rule], missing: Sequence[str], unlike: Sequence[str]) -> None:
    """Raises `DataError` where there are rules that cannot be applied to all of the baseline.

    Args:
        missing: bundles of the baseline that were not measured now.
        unlike: what has only answers of another engine.
    """
    if rules and missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise DataError(
            f"not measured now, but in the baseline: {', '.join(missing[:4])}{more}; measure the same bundles with the"
            " same engines, or leave them out with --force"
        )
    if unlike and any(rule.metric is Metric.TOP1 for rule in rules):
        raise DataError(f"{unlike[0]}; evaluate with the engine that is measured (eval --engine)")


def broken_sentences(rules: Sequence[Rule], matched: Sequence[Matched]) -> tuple[str, ...]:
    """Applies every rule to every bundle: what breaks one.

    Raises:
        DataError: a rule is about something that was not measured on both sides.
    """
    broken = []
    for pair in matched:
        changes = {change.metric: change for change in pair.changes}
        for rule in rules:
            change = changes.get(rule.metric)
            if change is None:
                takes = f", which takes {rule.metric.takes}" if rule.metric.takes else ""
                raise DataError(
                    f"{rule.metric.value} of {pair.after.label} was not measured on both sides{takes}; leave the rule"
                    " out, or measure it"
                )
            if rule.broken_by(change):
                broken.append(f"{pair.after.label}: {change_sentence(change)}, where {rule} is allowed")
    return tuple(broken)


def undecided_sentences(rules: Sequence[Rule], matched: Sequence[Matched]) -> tuple[str, ...]:
    """What a rule asks for and the samples are too few or too unsteady to say; it passes, and people are told."""
    return tuple(
        f"{pair.after.label}: {change_sentence(change)}: too {_lack(rule.metric)} to tell whether {rule} holds;"
        f" {_STEADIER[rule.metric]}"
        for pair in matched
        for rule in rules
        for change in pair.changes
        if change.metric is rule.metric and rule.undecided_by(change)
    )


def _lack(metric: Metric) -> str:
    return "few images" if metric is Metric.TOP1 else "unsteady"


def change_sentence(change: Change) -> str:
    """``p50 4.47 → 4.81 ms, +7.6 % (95 % interval +6.9 to +8.2)``."""
    metric, within = change.metric, f" (95 % interval {change.within})" if change.within else ""
    if metric is Metric.TOP1:
        return f"top-1 {change.before:.2f} → {change.after:.2f} %, {change.words}{within}"
    beside = f" beside {change.beside}" if change.beside else ""
    values = f"{figure(change.before)} → {figure(change.after)} {metric.unit}"
    return f"{metric.value} {values}, {change.words}{beside}{within}"


def _parse_rule(text: str) -> Rule:
    found = _RULE.fullmatch(text)
    metrics = {metric.value: metric for metric in Metric}
    if not found or found["metric"] not in metrics:
        raise ConfigError(
            f"--fail-if {text!r} is no rule; write for example 'p50>+5%,top1<-0.2' with {', '.join(metrics)}"
        )
    metric = metrics[found["metric"]]
    if (metric.change_unit == "%") != bool(found["percent"]):
        wish = "points, without %" if metric is Metric.TOP1 else "percent, with % at its end"
        raise ConfigError(f"--fail-if {text!r}: the change of {metric.value} is in {wish}")
    return Rule(metric, Side(found["side"]), float(found["limit"]))
