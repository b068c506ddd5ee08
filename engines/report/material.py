"""The files of a report: of ``bench --out``, of ``eval --out``, and of ``sensitivity --json``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from googlenet_edge.engines.answers import KIND as ANSWERS
from googlenet_edge.engines.answers import Answers, parse_answers
from googlenet_edge.engines.measurement import MAX_BYTES, BundleMeasurement, Measurement, parse_measurement
from googlenet_edge.engines.report.check import check_measurement
from googlenet_edge.errors import ConfigError, DataError
from googlenet_edge.files import from_json, read_file
from googlenet_edge.statistics import Interval


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
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
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
