"""The files of a report: of ``bench --out``, of ``eval --out``, and of ``sensitivity --json``.

A file may come from anywhere, and a report is believed: `check_measurement` says what it must hold beyond its types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from googlenet_edge.engines.evaluate import KIND as ANSWERS
from googlenet_edge.engines.evaluate import Answers, parse_answers
from googlenet_edge.engines.measurement import (
    MAX_BYTES,
    BundleMeasurement,
    Measurement,
    Samples,
    Stage,
    parse_measurement,
)
from googlenet_edge.errors import ConfigError, DataError
from googlenet_edge.files import from_json, read_file, real_path
from googlenet_edge.statistics import Count, Figure, Interval, Lasting, NonNegative, Tally

LEAST_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What a report shows of a `sensitivity.LayerSensitivity`, without the packages that measured it."""

    layer: str
    noise_share: NonNegative
    flips: Tally
    extra_ms: Figure
    slowdown: NonNegative
    slowdown_interval: Interval


@dataclass(frozen=True, slots=True)
class Layers:
    """The same of a `sensitivity.Sensitivity`: the costliest layer first."""

    images: Count
    latency_ms: Lasting
    threads: Count
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A measurement; ``name`` is the path of its file."""

    name: str
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of, all of one model."""

    sources: tuple[Source, ...]
    answers: tuple[Answers, ...] = ()
    layers: tuple[Layers, ...] = ()


@dataclass(frozen=True, slots=True)
class _Kind:
    """What tells the files apart, before anything else is read."""

    kind: str = ""
    layers: list[object] | None = None
    bundles: list[object] | None = None


def read_material(paths: Sequence[Path]) -> Material:
    """Reads and checks files of any of the three kinds.

    Raises:
        DataError: a file is missing, damaged, of a newer schema, none of these, or cannot be believed; no
            measurement among them, the same file twice, or files of different models.
    """
    twice = [path for path, count in Counter(map(real_path, paths)).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice; give each file once")
    found = [_read(path) for path in paths]
    sources = tuple(one for one in found if isinstance(one, Source))
    if not sources:
        raise DataError(
            "there is no measurement among the files; make one with: gnet-edge bench --out measurement.json"
        )
    answers = tuple(one for one in found if isinstance(one, Answers))
    _check_same_model(sources)
    _check_classes(sources[0].measurement.bundles[0], answers)
    return Material(sources, answers, tuple(one for one in found if isinstance(one, Layers)))


def _read(path: Path) -> Source | Answers | Layers:
    data, where = read_file(path, limit=MAX_BYTES, error=DataError), str(path)
    kind = from_json(data, _Kind, where=where, error=DataError)
    if kind.kind == ANSWERS:
        return parse_answers(data, where)
    if kind.layers is not None:
        return from_json(data, Layers, where=where, error=DataError)
    if kind.bundles is None:
        raise DataError(
            f"{where} is neither a measurement nor answers nor layers; give what bench --out, eval --out or sensitivity"
            " --json wrote"
        )
    try:
        measurement = parse_measurement(data, where)
    except ConfigError as problem:  # a plan in it is one that nobody can follow
        raise DataError(f"{where} cannot be read: {problem}") from problem
    check_measurement(measurement, where)
    return Source(where, measurement)


def _check_same_model(sources: Sequence[Source]) -> None:
    """One network in several precisions, sizes or on several devices has the same input and the same classes."""
    first = sources[0].measurement.bundles[0]
    for source in sources:
        for bundle in source.measurement.bundles:
            if _model(bundle) != _model(first):
                raise DataError(
                    f"{bundle.name!r} in {source.name} is another model ({_described(bundle)}) than {first.name!r} in"
                    f" {sources[0].name} ({_described(first)}); make a report of each"
                )


def _check_classes(bundle: BundleMeasurement, answers: Sequence[Answers]) -> None:
    for found in answers:
        if len(found.class_names) != bundle.engine.classes:
            raise DataError(
                f"the answers about {found.data!r} are of another model ({len(found.class_names)} classes) than"
                f" {bundle.name!r} ({_described(bundle)}); evaluate the bundles that were measured"
            )


def _model(bundle: BundleMeasurement) -> tuple[int, int, str]:
    return bundle.engine.crop, bundle.engine.classes, bundle.labels_sha256


def _described(bundle: BundleMeasurement) -> str:
    crop, classes, labels = _model(bundle)
    return f"{crop}×{crop} pixels, {classes} classes, labels {labels[:8]}"


def check_measurement(measurement: Measurement, where: str) -> None:
    """Raises `DataError`, which names the file and the field: no bundle, too few rounds, a figure that cannot be."""
    if not measurement.bundles:
        raise DataError(f"{where} holds no bundle; measure again with: gnet-edge bench --out FILE")
    names = [bundle.name for bundle in measurement.bundles]
    if len(set(names)) < len(names):
        raise DataError(f"{where} holds two bundles of one name; measure each once")
    problem = next(_problems(measurement), None)
    if problem:
        raise DataError(f"{where} cannot be a measurement: {problem}; measure again")


def _problems(measurement: Measurement) -> Iterator[str]:
    """What cannot be, of which types do not tell."""
    if watched := measurement.watched:
        for what, series in (("power", watched.power), ("heat", watched.heat), ("clock", watched.clocks)):
            if any(len(values) != len(series.times_s) for values in series.values.values()):
                yield f"{what} has other moments than values"
        if unknown := set(watched.total) - set(watched.power.values):
            yield f"the whole power is that of the rail {min(unknown)!r}, which was not measured"
    for bundle in measurement.bundles:
        for problem in _problems_of(bundle):
            yield f"{problem} of {bundle.name!r}"


def _problems_of(bundle: BundleMeasurement) -> Iterator[str]:
    for what, found in _times_of(bundle):
        lengths = {len(times) for times in found.rounds_ms}
        if len(lengths) != 1 or 0 in lengths:
            yield f"{what} has no samples, or rounds of different lengths"
    if len(bundle.latency.rounds_ms) < LEAST_ROUNDS:
        yield f"latency has {len(bundle.latency.rounds_ms)} rounds, at least {LEAST_ROUNDS} are needed"
    if bundle.stages.keys() != set(Stage):
        yield "a stage is missing"
    comparison = bundle.against_fp32
    for accuracy in (bundle.accuracy, comparison and comparison.reference):
        if accuracy and not 0 <= accuracy.top1_interval.low <= accuracy.top1 <= accuracy.top1_interval.high <= 1:
            yield "accuracy is no share between 0 and 1 within its interval"
    if comparison:
        change = comparison.top1_change_interval
        if not -100 <= change.low <= comparison.top1_change_points <= change.high <= 100:
            yield "the change of accuracy is not within its interval"


def _times_of(bundle: BundleMeasurement) -> Iterator[tuple[str, Samples]]:
    """All that was timed, and what it is called."""
    yield "latency", bundle.latency
    for stage, found in (*bundle.stages.items(), *bundle.device_stages.items()):
        yield f"stage {stage.value}", found
    for batch in bundle.throughput:
        yield "throughput", batch.latency
