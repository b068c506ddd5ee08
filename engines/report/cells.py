"""The tables of a report, as text in cells: the page and the Markdown show the same ones.

And where the machine has sensors, power and heat over the time of the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import groupby

import numpy as np

from googlenet_edge.engines.accuracy import Evaluation
from googlenet_edge.engines.measurement import BatchThroughput, BundleMeasurement, Stage, samples
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.report.judge import Matched
from googlenet_edge.engines.report.material import Layers, Source
from googlenet_edge.engines.report.plots import COLOURS, Curve, Floor, curves
from googlenet_edge.engines.report.subjects import Subject, shown_name, shown_text
from googlenet_edge.engines.report.verdict import accuracy_words, change_words, figure, milliseconds
from googlenet_edge.engines.sensors import Series
from googlenet_edge.statistics import FEWEST_FOR_P99_9, Summary

NOT_MEASURED = "not measured"
_MOST_POINTS = 240
_MOST_CONFUSED = 12


@dataclass(frozen=True, slots=True)
class Row:
    """``colour`` is the number of the bundle that the row is about, from 1; 0 for none."""

    name: str
    cells: tuple[str, ...]
    colour: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """``head`` names the first column and the cells'."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]


def glance_table(subjects: Sequence[Subject]) -> Table:
    """Every bundle in one row."""
    on_gpu = any(subject.source.measurement.on_gpu for subject in subjects)
    memory = "peak memory, less the GPU's" if on_gpu else "peak memory"
    head = ("bundle", "p50", "p90", "p99", "p99.9", "against reference", "top-1", "change, points", "images/s",
            "cold start", memory, "size")  # fmt: skip
    return Table(head, tuple(map(_glance_row, subjects)))


def stages_table(subjects: Sequence[Subject]) -> Table:
    """Where the time of one image file goes, p50 in milliseconds; parts of inference where a GPU times them."""
    parts = [part for part in DeviceStage if any(part in subject.bundle.device_stages for subject in subjects)]
    rows = []
    for subject in subjects:
        times = stages_ms(subject.bundle)
        of_parts = (device_ms(subject.bundle, part) for part in parts)
        shown = (*times.values(), sum(times.values()), *of_parts)
        rows.append(Row(subject.label, tuple(map(_stage_cell, shown)), subject.number))
    head = ("p50, ms", *(stage.value for stage in Stage), "sum", *(f"inference: {part.value}" for part in parts))
    return Table(head, tuple(rows))


def throughput_table(subjects: Sequence[Subject]) -> Table:
    """Images a second, by how many are worked on at once."""
    ways = sorted({(batch.streams, batch.batch) for subject in subjects for batch in subject.bundle.throughput})
    rows = []
    for subject in subjects:
        rates = {(batch.streams, batch.batch): images_per_s(batch) for batch in subject.bundle.throughput}
        rows.append(Row(subject.label, tuple(_rate(rates.get(way)) for way in ways), subject.number))
    words = [f"{batch}" if streams == 1 else f"{batch} on {streams} streams" for streams, batch in ways]
    return Table(("images/s, images at once", *words), tuple(rows))


def sustained_table(subjects: Sequence[Subject]) -> Table:
    """What became of the latency under a load that lasted, and of the frames of a camera."""
    rows = []
    for subject in subjects:
        load = subject.bundle.sustained
        if load is None:
            rows.append(Row(subject.label, (NOT_MEASURED,) * 5, subject.number))
            continue
        camera = f"{load.missed:,} of {load.frames:,}" if load.frames else "no camera"
        cut = "" if load.ended_s is None else f"{load.ended_s:.0f} of "
        times = (f"{cut}{load.plan.seconds:g} s", milliseconds(load.first_ms), milliseconds(load.last_ms))
        rows.append(Row(subject.label, (*times, f"{100 * load.slowdown - 100:+.1f} %", camera), subject.number))
    head = ("p50 under a load that lasts", "load", "first tenth", "last tenth", "change", "frames missed")
    return Table(head, tuple(rows))


def changes_table(matched: Sequence[Matched]) -> Table:
    """Every change since the baseline."""
    rows = []
    for pair in matched:
        for change in pair.changes:
            within = f" ({change.within})" if change.within else ""
            cells = (
                f"{figure(change.before)} {change.metric.unit}",
                f"{figure(change.after)} {change.metric.unit}",
                f"{change.words}{within}{f' beside {change.beside}' if change.beside else ''}",
                "a difference" if change.real else "no difference",
            )
            rows.append(Row(f"{pair.after.label}, {change.metric.value}", cells))
    return Table(("against the baseline", "before", "now", "change (95 %)", "judged"), tuple(rows))


def layers_table(found: Layers) -> Table:
    """The layers, the costliest in accuracy first."""
    rows = []
    for row in found.layers:
        interval = row.slowdown_interval
        cells = (
            f"{100 * row.noise_share:.1f} %",
            str(row.flips),
            f"{row.extra_ms:+.2f} ms",
            f"{100 * row.slowdown - 100:+.1f} % ({100 * interval.low - 100:+.1f} to {100 * interval.high - 100:+.1f})",
        )
        rows.append(Row(shown_name(row.layer), cells))
    return Table(("layer", "noise when rounded", "flips", "time in float", "slower in float (95 %)"), tuple(rows))


def confused_table(evaluation: Evaluation) -> Table:
    """The pairs of classes that are mistaken most often."""
    names = evaluation.class_names
    rows = [
        Row(shown_name(names[i]), (shown_name(names[j]), f"{count} of {int((evaluation.labels == i).sum())}"))
        for i, j, count in evaluation.confused[:_MOST_CONFUSED]
    ]
    return Table(("is", "answered as", "images"), tuple(rows))


def circumstances_table(source: Source) -> Table:
    """Everything that the file says about where and how, whatever fields its version has."""
    here, image = source.measurement.circumstances, source.measurement.image
    facts = {_words(field.name): getattr(here, field.name) for field in fields(here) if field.name != "jetson"}
    if here.jetson:
        facts |= {_words(field.name): getattr(here.jetson, field.name) for field in fields(here.jetson)}
    rows = [Row(name, (_value(value),)) for name, value in facts.items()]
    rows.append(Row("image of the stages", (f"{image.width}×{image.height}, {image.size_bytes:,} bytes",)))
    return Table(("circumstance", "value"), tuple(rows))


def lineage_table(subjects: Sequence[Subject]) -> Table:
    """What exactly was measured, and how much."""
    head = ("bundle", "engine", "input", "threads", "warm-up", "samples", "spread", "model SHA-256", "graph SHA-256")
    rows = []
    for subject in subjects:
        bundle, lineage = subject.bundle, subject.bundle.lineage
        steady = "" if bundle.warm_up.steady else ", not steady"
        cells = (
            shown_text(str(bundle.engine)),
            f"{bundle.engine.crop}×{bundle.engine.crop}, {bundle.engine.classes} classes",
            str(bundle.engine.threads),
            f"{bundle.warm_up.runs} runs{steady}",
            f"{subject.latency_ms.count} in {len(bundle.latency.rounds_ms)} rounds",
            f"{100 * subject.latency_ms.spread:.1f} %",
            shown_text(bundle.model_sha256)[:12],
            (lineage.graph or "not known")[:12],
        )
        rows.append(Row(shown_text(bundle.name), cells, subject.number))
    return Table(head, tuple(rows))


def tail_words(latency: Summary) -> str:
    """The p99.9, or how many samples are missing for one."""
    if latency.p99_9 is None:
        return f"{NOT_MEASURED}: {latency.count:,} of at least {FEWEST_FOR_P99_9:,} samples"
    return milliseconds(latency.p99_9)


def images_per_s(batch: BatchThroughput) -> float:
    """From the samples: the file's own figure is not needed."""
    return 1e3 * batch.batch / samples(batch.latency.rounds_ms).summary_ms.p50


def stages_ms(bundle: BundleMeasurement) -> dict[Stage, float]:
    """The median of every stage, in milliseconds."""
    return {stage: samples(bundle.stages[stage].rounds_ms).summary_ms.p50 for stage in Stage}


def device_ms(bundle: BundleMeasurement, part: DeviceStage) -> float | None:
    """The median of a part of inference, in milliseconds, where it was measured."""
    found = bundle.device_stages.get(part)
    return samples(found.rounds_ms).summary_ms.p50 if found else None


def _stage_cell(ms: float | None) -> str:
    return NOT_MEASURED if ms is None else f"{ms:.2f}"


def _glance_row(subject: Subject) -> Row:
    bundle, latency, ratio = subject.bundle, subject.latency_ms, subject.ratio
    against = f"{ratio.ratio:.3f} ({ratio.interval:.3f})" if ratio else ""
    cells = (
        *(milliseconds(time) for time in (latency.p50, latency.p90, latency.p99)),
        tail_words(latency),
        "the reference" if subject.is_reference else against or NOT_MEASURED,
        accuracy_words(subject.accuracy, simulated=subject.simulated),
        ""
        if subject.is_reference and not subject.comparison
        else change_words(subject.comparison).replace(" points", ""),
        _rate(max(map(images_per_s, bundle.throughput))),
        milliseconds(bundle.cold_start_ms),
        f"{bundle.peak_memory_mb} MB" if bundle.peak_memory_mb else NOT_MEASURED,
        f"{bundle.bundle_bytes / 1e6:.2f} MB",
    )
    return Row(subject.label, cells, subject.number)


def _rate(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _words(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words.removesuffix(' mb')}, MB" if words.endswith(" mb") else words


def _value(value: object) -> str:
    """Any field of a measurement as text; what could not be read says so."""
    if value is None:
        return "not read"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{shown_text(str(key))} {'not installed' if item is None else _value(item)}" for key, item in value.items()
        )
    if is_dataclass(value):
        return ", ".join(f"{_words(field.name)} {_value(getattr(value, field.name))}" for field in fields(value))
    return shown_text(str(value.value if isinstance(value, Enum) else value))


@dataclass(frozen=True, slots=True)
class Timeline:
    """Sensors of one kind over time: the names are in the order of the colours, from 1."""

    title: str
    drawing: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the sensors of one machine said."""

    name: str
    timelines: tuple[Timeline, ...]
    energy: Table
    throttling: str


def telemetry_of(source: Source, subjects: Sequence[Subject]) -> Telemetry | None:
    """None where nothing was watched. ``subjects`` are all of the report."""
    watched = source.measurement.watched
    if watched is None:
        return None
    found = (
        _timeline("Power", "W", watched.power, factor=1e-3, floor=Floor.ZERO),
        _timeline("Heat", "°C", watched.heat, factor=1.0, floor=Floor.LEAST),
        _timeline("Clocks", "MHz", watched.clocks, factor=1.0, floor=Floor.ZERO),
    )
    return Telemetry(
        name=shown_text(source.name),
        timelines=tuple(filter(None, found)),
        energy=_energy_table([subject for subject in subjects if subject.source is source]),
        throttling=shown_text(watched.throttling),
    )


def _timeline(title: str, unit: str, series: Series, *, factor: float, floor: Floor) -> Timeline | None:
    """Of the sensors that said something, as many as there are colours: those with the largest values."""
    said = {name: [value for value in values if value is not None] for name, values in series.values.items()}
    most = {name: factor * max(values) for name, values in said.items() if values}
    largest = sorted(most, key=lambda name: -most[name])[:COLOURS]
    if not largest:
        return None
    found = [
        Curve(colour, line)
        for colour, name in enumerate(largest, start=1)
        for line in _lines(series.times_s, series.values[name], factor)
    ]
    drawing = curves(found, across="seconds", along=unit, floor=floor)
    return Timeline(title, drawing, tuple(f"{shown_name(name)} (most {most[name]:.1f} {unit})" for name in largest))


def _lines(
    times: Sequence[float], values: Sequence[float | None], factor: float
) -> Iterator[tuple[tuple[float, float], ...]]:
    """Means of neighbours, so that an hour is not drawn in a hundred thousand points; where all are silent, none."""
    pairs = [(time, math.nan if value is None else factor * value) for time, value in zip(times, values, strict=True)]
    parts = np.array_split(np.array(pairs, np.float64), min(_MOST_POINTS, len(pairs)))
    said = (part[~np.isnan(part[:, 1])] for part in parts)
    for speaks, group in groupby(said, key=lambda part: len(part) > 0):
        if speaks:
            yield tuple((float(x), float(y)) for x, y in (part.mean(axis=0) for part in group))


def _energy_table(subjects: Sequence[Subject]) -> Table:
    rows = []
    for subject in subjects:
        energy = subject.bundle.energy
        cells = (
            _figure(energy.mj if energy else None, "mJ"),
            _figure(energy.mj_above_idle if energy else None, "mJ"),
            _figure(energy.power_mw / 1e3 if energy else None, "W"),
            _figure(energy.idle_mw / 1e3 if energy and energy.idle_mw is not None else None, "W"),
        )
        rows.append(Row(subject.label, cells, subject.number))
    return Table(("energy of an inference", "whole module", "above idle", "mean power", "idle power"), tuple(rows))


def _figure(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f} {unit}"
