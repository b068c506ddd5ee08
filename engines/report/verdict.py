"""The verdict: what the figures come to, in one sentence that claims no more than they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.measurement import LatencyRatio
from googlenet_edge.engines.report.gate import change_sentence
from googlenet_edge.engines.report.judge import Change, Matched, Metric
from googlenet_edge.engines.report.subjects import Subject


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
    headline = f"The fastest of {len(subjects)} is {fastest.label}: {milliseconds(_p50(fastest))} for an image."
    return Verdict(headline, tuple(verdict.headline for verdict in verdicts), Tone.NEUTRAL)


def milliseconds(value: float) -> str:
    """Three or four digits that count."""
    return f"{value:.3f} ms" if value < 1 else f"{value:.2f} ms" if value < 100 else f"{value:.0f} ms"


def accuracy_words(accuracy: Accuracy | None, *, simulated: bool = False) -> str:
    """Top-1 with its interval, or that nobody measured it."""
    if accuracy is None:
        return "not measured"
    low, high = accuracy.top1_interval.low, accuracy.top1_interval.high
    return f"{100 * accuracy.top1:.2f} % ({100 * low:.1f} to {100 * high:.1f}){', simulated' if simulated else ''}"


def change_words(comparison: Comparison | None) -> str:
    """The change of top-1 with its interval."""
    if comparison is None:
        return "not measured"
    interval = comparison.top1_change_interval
    return f"{comparison.top1_change_points:+.2f} points ({interval.low:+.2f} to {interval.high:+.2f})"


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
    good = faster and not lost and not subject.source.measurement.warnings
    tone = Tone.GOOD if good else Tone.BAD if not faster and lost else Tone.MIXED
    interval = subject.ratio.interval
    details = [
        f"{milliseconds(subject.latency_ms.p50)} against {milliseconds(reference.latency_ms.p50)} for an image (p50):"
        f" a ratio of {subject.ratio.ratio:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}."
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
    if "1.00" in (f"{speed:.2f}", f"{ratio.ratio:.2f}") and not ratio.interval.low <= 1 <= ratio.interval.high:
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
    digits, unit = (2, "points") if change.metric is Metric.TOP1 else (1, "%")
    return f"{change.metric.value} {change.change:+.{digits}f} {unit}"


def _figures(subject: Subject) -> str:
    accuracy = f", top-1 {_top1(subject)}" if subject.accuracy else ""
    latency = subject.latency_ms
    return f"{subject.label}: {milliseconds(latency.p50)} (p50), {milliseconds(latency.p99)} (p99){accuracy}."


def _p50(subject: Subject) -> float:
    return subject.latency_ms.p50


def _ratio(subject: Subject) -> float:
    return subject.ratio.ratio if subject.ratio else float("inf")
