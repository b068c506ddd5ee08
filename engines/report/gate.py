"""The gate: rules such as ``p50>+5%,top1<-0.2``, and which of them two measurements break."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from googlenet_edge.engines.report.judge import (
    RUN_TO_RUN_PERCENT,
    Change,
    Matched,
    Metric,
)
from googlenet_edge.engines.report.subjects import differing_circumstances
from googlenet_edge.errors import ConfigError, DataError

_RULE = re.compile(r"(?P<metric>[a-z0-9_.]+)\s*(?P<side>[<>])\s*(?P<limit>[+-]?\d{1,6}(?:\.\d{1,6})?)(?P<percent>%?)")

_STEADIER = {
    **dict.fromkeys((Metric.P50, Metric.P90, Metric.P99, Metric.P99_9), "measure both with more --rounds"),
    **dict.fromkeys((Metric.THROUGHPUT, Metric.COLD_START), "measure both with --rounds of 100 and more"),
    Metric.ENERGY: "measure both while nothing else runs",
    Metric.TOP1: "give the answers of both (eval --out), on more images where they are given",
}
"""What would narrow the interval of a change; size and memory have none."""


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
        within = change.interval.low <= self.limit <= change.interval.high
        least = 0 if change.metric is Metric.TOP1 else RUN_TO_RUN_PERCENT
        return within and not change.real and abs(self.limit) > least and change.metric in _STEADIER

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
    metric, interval = change.metric, change.interval
    exact = interval.low == interval.high
    within = "" if exact else f" (95 % interval {interval.low:+.1f} to {interval.high:+.1f})"
    if metric is Metric.TOP1:
        within = "" if exact else f" (95 % interval {interval.low:+.2f} to {interval.high:+.2f})"
        return f"top-1 {change.before:.2f} → {change.after:.2f} %, {change.change:+.2f} points{within}"
    beside = f" beside {change.beside}" if change.beside else ""
    return (
        f"{metric.value} {change.before:.4g} → {change.after:.4g} {metric.unit}, {change.change:+.1f} %{beside}{within}"
    )


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
