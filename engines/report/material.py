"""The files of a report: of ``bench --out``, of ``eval --out``, and of ``sensitivity --json``.

A file may come from anywhere, and a report is believed: `check_measurement` says what it must hold beyond its types.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.answers import KIND as ANSWERS
from googlenet_edge.engines.answers import Answers, parse_answers
from googlenet_edge.engines.measurement import (
    MAX_BYTES,
    MOST_ROUNDS,
    BundleMeasurement,
    Measurement,
    Samples,
    Stage,
    parse_measurement,
)
from googlenet_edge.engines.sensors import Series
from googlenet_edge.engines.sustained import Sustained
from googlenet_edge.errors import ConfigError, DataError
from googlenet_edge.files import from_json, read_file, real_path
from googlenet_edge.statistics import Interval

LEAST_ROUNDS = 6

_MOST = 1e12
"""No time in milliseconds, size in bytes or count is larger."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What a report shows of a `sensitivity.LayerSensitivity`, without the packages that measured it."""

    layer: str
    noise_share: float
    flips: int
    extra_ms: float
    slowdown: float
    slowdown_interval: Interval


@dataclass(frozen=True, slots=True)
class Layers:
    """The same of a `sensitivity.Sensitivity`: the costliest layer first."""

    images: int
    latency_ms: float
    threads: int
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
        return parse_layers(data, where)
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
            labels = {bundle.labels_sha256, first.labels_sha256} - {None}
            if _shape(bundle) != _shape(first) or len(labels) > 1:
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


def _shape(bundle: BundleMeasurement) -> tuple[int, int]:
    return bundle.engine.crop, bundle.engine.classes


def _described(bundle: BundleMeasurement) -> str:
    labels = f", labels {bundle.labels_sha256[:8]}" if bundle.labels_sha256 else ""
    return f"{bundle.engine.crop}×{bundle.engine.crop} pixels, {bundle.engine.classes} classes{labels}"


def parse_layers(data: bytes, where: str) -> Layers:
    """Raises `DataError`: damaged, or a figure that cannot be."""
    found = from_json(data, Layers, where=where, error=DataError)
    figures = [value for row in found.layers for value in (row.noise_share, row.extra_ms, row.slowdown)]
    if not all(math.isfinite(value) and abs(value) < 1e9 for value in (found.latency_ms, *figures)):
        raise DataError(f"{where} cannot be layers of gnet-edge sensitivity: a figure is not finite; measure again")
    return found


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
    here, image = measurement.circumstances, measurement.image
    yield from _counts("circumstances", (here.cores, image.size_bytes, image.width, image.height))
    if here.cores_of_others is not None:
        yield from _figures("cores_of_others", (here.cores_of_others,), least=0)
    if here.memory_mb is not None:
        yield from _counts("memory_mb", (here.memory_mb,))
    if measurement.watched:
        yield from _problems_of_series("power", measurement.watched.power)
        yield from _problems_of_series("heat", measurement.watched.heat)
        if unknown := set(measurement.watched.total) - set(measurement.watched.power.values):
            yield f"the whole power is that of the rail {min(unknown)!r}, which was not measured"
    for bundle in measurement.bundles:
        for problem in _problems_of(bundle):
            yield f"{problem} of {bundle.name!r}"


def _problems_of(bundle: BundleMeasurement) -> Iterator[str]:
    engine = bundle.engine
    yield from _counts(
        "the size or engine", (bundle.bundle_bytes, engine.threads, engine.crop, engine.classes, engine.streams)
    )
    yield from _problems_of_samples("latency", bundle.latency)
    if len(bundle.latency.rounds_ms) < LEAST_ROUNDS:
        yield f"latency has {len(bundle.latency.rounds_ms)} rounds, at least {LEAST_ROUNDS} are needed"
    if not (bundle.stages.keys() == set(Stage) and bundle.throughput and bundle.cold_starts):
        yield "a stage, the throughput or the cold start is missing"
    for stage, found in (*bundle.stages.items(), *bundle.device_stages.items()):
        yield from _problems_of_samples(f"stage {stage.value}", found)
    for batch in bundle.throughput:
        yield from _counts("throughput", (batch.batch, batch.streams))
        yield from _problems_of_samples("throughput", batch.latency)
    for start in bundle.cold_starts:
        yield from _figures("cold start", (start.start_ms, start.load_ms, start.first_ms), least=0)
        yield from _counts("memory", () if start.peak_memory_mb is None else (start.peak_memory_mb,))
    if bundle.sustained:
        yield from _problems_of_load(bundle.sustained)
    if bundle.energy:
        energy = bundle.energy
        values = (energy.mj, *energy.turns_mj, energy.power_mw, energy.idle_mw, energy.mj_above_idle)
        yield from _figures("energy", [value for value in values if value is not None], least=-_MOST)
    yield from _problems_of_accuracy(bundle.accuracy, bundle.against_fp32)


def _problems_of_samples(what: str, samples: Samples) -> Iterator[str]:
    if len(samples.rounds_ms) > MOST_ROUNDS:
        yield f"{what} has more than {MOST_ROUNDS:,} rounds"
    lengths = {len(times) for times in samples.rounds_ms}
    if len(lengths) != 1 or 0 in lengths:
        yield f"{what} has no samples, or rounds of different lengths"
    for times in samples.rounds_ms:
        yield from _figures(what, times, least=1e-9)


def _problems_of_series(what: str, series: Series) -> Iterator[str]:
    yield from _figures(f"the time of {what}", series.times_s, least=0)
    for values in series.values.values():
        if len(values) != len(series.times_s):
            yield f"{what} has other moments than values"
        yield from _figures(what, [value for value in values if value is not None], least=-_MOST)


def _problems_of_load(load: Sustained) -> Iterator[str]:
    if not load.windows:
        yield "the sustained load has no windows"
    yield from _figures("the sustained load", [window.start_s for window in load.windows], least=0)
    times = [ms for window in load.windows for ms in (window.p50_ms, window.worst_ms)]
    yield from _figures("the sustained load", times, least=1e-9)


def _problems_of_accuracy(accuracy: Accuracy | None, comparison: Comparison | None) -> Iterator[str]:
    for found in (accuracy, comparison.reference if comparison else None):
        if found is None:
            continue
        interval = found.top1_interval
        yield from _counts("accuracy", (found.images,))
        if not 0 <= interval.low <= found.top1 <= interval.high <= 1 or not 0 <= found.top5 <= 1:
            yield "accuracy is no share between 0 and 1 within its interval"
    if comparison:
        change = comparison.top1_change_interval
        if not -100 <= change.low <= comparison.top1_change_points <= change.high <= 100:
            yield "the change of accuracy is not within its interval"
        if not (0 <= comparison.agreement <= 1 and 0 <= comparison.mcnemar_p <= 1):
            yield "the comparison with FP32 holds a share outside of 0 to 1"


def _figures(what: str, values: Sequence[float], *, least: float) -> Iterator[str]:
    wrong = [value for value in values if not (math.isfinite(value) and least <= value <= _MOST)]
    if wrong:
        yield f"{what} holds {wrong[0]:g}"


def _counts(what: str, values: Sequence[int]) -> Iterator[str]:
    wrong = [value for value in values if not 1 <= value <= _MOST]
    if wrong:
        yield f"{what} holds a number that is not between 1 and {_MOST:.0e}"
