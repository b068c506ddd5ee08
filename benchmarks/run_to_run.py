"""Two runs of the same bundles, some time apart: are they called equal, and is a change of 5 % found?

Each call measures the bundles as `gnet-edge bench` does by default, in a process of its own, and keeps that beside what
earlier calls kept in the same folder. Then every two of them are judged: as they are, and with all times of the later
one 5 % longer or shorter, for each bundle alone. An hour apart on one machine:

  python benchmarks/run_to_run.py runs/flowers/int8-cpu --keep runs/again --times 5 && sleep 3600
  python benchmarks/run_to_run.py runs/flowers/int8-cpu --keep runs/again --times 5 --out again.json
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from common import Figure, Result, at_least, conclude, parser, run

from googlenet_edge.console import bar
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.engines.measurement import (
    MAX_BYTES,
    BundleMeasurement,
    Measurement,
    Samples,
    parse_measurement,
    samples,
)
from googlenet_edge.engines.report.judge import Change, Metric, judge
from googlenet_edge.engines.report.material import Material, Source
from googlenet_edge.errors import DataError, EngineError
from googlenet_edge.files import read_file

LEAST_SHARE = 0.95
FACTORS = (1.0, 1.05, 0.95)


@dataclass(frozen=True, slots=True)
class Trial:
    """The p50 of a bundle in a later run with times ``factor`` as long, against an earlier run."""

    bundle: str
    factor: float
    minutes_apart: float
    change: Change


def main() -> None:
    options = parser(__doc__)
    options.add_argument("bundles", type=Path, nargs="+")
    options.add_argument("--keep", type=Path, required=True, metavar="FOLDER", help="where every measurement stays")
    options.add_argument("--times", type=at_least(1), default=2, help="how often to measure now")
    options.add_argument("--apart", type=at_least(1), default=30, help="pairs of fewer minutes are not judged")
    given = options.parse_args()
    circumstances = read_circumstances()
    given.keep.mkdir(parents=True, exist_ok=True)
    with bar("measuring") as progress:
        for done in range(given.times):
            measure(given.bundles, given.keep)
            progress(done + 1, given.times)
    files = sorted(given.keep.glob("*.json"))
    kept = [parse_measurement(read_file(path, limit=MAX_BYTES, error=DataError), str(path)) for path in files]
    trials = list(trials_of(kept, least_minutes=given.apart))
    if not trials:
        raise DataError(f"{given.keep} has no two measurements {given.apart} minutes apart; call this again later")
    conclude(Result(tuple(figures(trials)), circumstances, trials), given.out)


def measure(bundles: Sequence[Path], folder: Path) -> None:
    """One benchmark in a fresh process. Raises `EngineError`."""
    path = next(path for i in itertools.count() if not (path := folder / f"{i:03}.json").exists())
    command = [sys.executable, "-m", "googlenet_edge.cli", "bench", *map(str, bundles), "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"gnet-edge bench failed: {done.stderr.strip()}")


def trials_of(kept: Sequence[Measurement], *, least_minutes: float) -> Iterator[Trial]:
    """Every bundle in every two of ``kept`` that are far enough apart, with every factor."""
    for first, second in itertools.combinations(kept, 2):
        dates = (datetime.fromisoformat(each.circumstances.date) for each in (first, second))
        before, after = sorted(dates)
        minutes = (after - before).total_seconds() / 60
        if minutes < least_minutes:
            continue
        for bundle in first.bundles:
            for factor in FACTORS:
                yield Trial(
                    bundle.name, factor, minutes, p50_change(bundle.name, first, slowed(second, bundle.name, factor))
                )


def slowed(measurement: Measurement, name: str, factor: float) -> Measurement:
    """With all times of one bundle ``factor`` as long."""

    def latency(bundle: BundleMeasurement) -> Samples:
        times = [tuple(factor * ms for ms in round_ms) for round_ms in bundle.latency.rounds_ms]
        return samples(times) if bundle.name == name else bundle.latency

    return replace(measurement, bundles=tuple(replace(each, latency=latency(each)) for each in measurement.bundles))


def p50_change(name: str, before: Measurement, after: Measurement) -> Change:
    """As the gate of `gnet-edge report` judges it."""
    old, new = (Material((Source(what, found),), ()) for what, found in (("before", before), ("after", after)))
    [pair] = [pair for pair in judge(old, new) if pair.after.bundle.name == name]
    return next(change for change in pair.changes if change.metric is Metric.P50)


def is_right(trial: Trial) -> bool:
    """Whether what was changed is found, in the direction in which it was, and nothing else."""
    if trial.factor == 1:
        return not trial.change.real
    return trial.change.real and (trial.change.change > 0) == (trial.factor > 1)


def figures(trials: Sequence[Trial]) -> Iterator[Figure]:
    """For each bundle: in how many of the pairs the judgement is right."""
    for name in dict.fromkeys(trial.bundle for trial in trials):
        for factor in FACTORS:
            of_one = [trial for trial in trials if (trial.bundle, trial.factor) == (name, factor)]
            right = [is_right(trial) for trial in of_one]
            what = "called equal" if factor == 1 else f"found, times × {factor:g}"
            changes = [trial.change.change for trial in of_one]
            apart = [trial.minutes_apart for trial in of_one]
            detail = (
                f"{sum(right)} of {len(right)} pairs, {min(apart):.0f} to {max(apart):.0f} minutes apart,"
                f" p50 {min(changes):+.1f} to {max(changes):+.1f} %"
            )
            yield Figure(f"{name}: {what}", sum(right) / len(right), least=LEAST_SHARE, detail=detail)


if __name__ == "__main__":
    run(main)
