"""Power and heat over the time of a benchmark, where the machine has sensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from googlenet_edge.engines.report.cells import NOT_MEASURED, Row, Table
from googlenet_edge.engines.report.material import Source
from googlenet_edge.engines.report.plots import COLOURS, Curve, Floor, curves
from googlenet_edge.engines.report.subjects import Subject, shown_name, shown_text
from googlenet_edge.engines.sensors import Series, Watched

_MOST_POINTS = 240


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
    """None where nothing was watched. ``subjects`` are all of the report; their places are their colours."""
    watched = source.measurement.watched
    if watched is None:
        return None
    milliwatts = _timeline("Power", "W", watched.power, factor=1e-3, floor=Floor.ZERO)
    degrees = _timeline("Heat", "°C", watched.heat, factor=1.0, floor=Floor.LEAST)
    return Telemetry(
        name=shown_text(source.name),
        timelines=tuple(timeline for timeline in (milliwatts, degrees) if timeline),
        energy=_energy_table([(n, s) for n, s in enumerate(subjects, start=1) if s.source is source]),
        throttling=_throttling(watched),
    )


def _timeline(title: str, unit: str, series: Series, *, factor: float, floor: Floor) -> Timeline | None:
    """Of the sensors that said something, as many as there are colours: those with the largest values."""
    said = {name: [value for value in values if value is not None] for name, values in series.values.items()}
    most = {name: factor * max(values) for name, values in said.items() if values}
    largest = sorted(most, key=lambda name: -most[name])[:COLOURS]
    if not largest:
        return None
    found = [
        Curve(colour, _points(series.times_s, series.values[name], factor))
        for colour, name in enumerate(largest, start=1)
    ]
    drawing = curves(found, across="seconds", along=unit, floor=floor)
    return Timeline(title, drawing, tuple(f"{shown_name(name)} (most {most[name]:.1f} {unit})" for name in largest))


def _points(times: Sequence[float], values: Sequence[float | None], factor: float) -> tuple[tuple[float, float], ...]:
    """Means of neighbours, so that an hour is not drawn in a hundred thousand points."""
    pairs = [(time, factor * value) for time, value in zip(times, values, strict=True) if value is not None]
    parts = np.array_split(np.array(pairs, np.float64), min(_MOST_POINTS, len(pairs)))
    return tuple((float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts))


def _energy_table(subjects: Sequence[tuple[int, Subject]]) -> Table:
    rows = []
    for colour, subject in subjects:
        energy = subject.bundle.energy
        cells = (
            _figure(energy.mj if energy else None, "mJ"),
            _figure(energy.mj_above_idle if energy else None, "mJ"),
            _figure(energy.power_mw / 1e3 if energy else None, "W"),
            _figure(energy.idle_mw / 1e3 if energy and energy.idle_mw is not None else None, "W"),
        )
        rows.append(Row(subject.label, cells, colour))
    return Table(("energy of an inference", "whole module", "above idle", "mean power", "idle power"), tuple(rows))


def _figure(value: float | None, unit: str) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f} {unit}"


def _throttling(watched: Watched) -> str:
    """How often the hardware throttled, by cause."""
    if watched.throttle_events is None:
        return "Throttle events cannot be read on this machine."
    found = [f"{shown_name(cause)} {count}" for cause, count in watched.throttle_events.items() if count]
    return f"Throttle events: {', '.join(found)}." if found else "The hardware did not throttle."
