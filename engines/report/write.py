"""Writing a report, in the format that the name of the file asks for.

HTML; Markdown for people who read text, and CSV for programs that read tables.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from importlib.resources import files
from pathlib import Path

from googlenet_edge import __version__
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.report.cells import Table, device_ms, images_per_s, stages_ms
from googlenet_edge.engines.report.judge import RUN_TO_RUN_PERCENT, Matched
from googlenet_edge.engines.report.material import Material
from googlenet_edge.engines.report.page import Page, page_of
from googlenet_edge.engines.report.subjects import Subject, shown_text, subjects_of
from googlenet_edge.errors import ConfigError
from googlenet_edge.files import write_bytes

_FOLDER = files("googlenet_edge.engines.report")

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&]|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
"""Letters that are markup, and the places in an address where a backslash makes text of it."""
_REFERENCE = re.compile(r"[@#]+")
"""GitHub looks for people, mail addresses and issues when backslashes are gone; only in code it does not."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(Enum):
    """What a report can be, by the suffix of its file."""

    HTML = ".html"
    MARKDOWN = ".md"
    CSV = ".csv"


def format_of(path: Path) -> Format:
    """Raises `ConfigError` for any other suffix."""
    try:
        return Format(path.suffix.lower())
    except ValueError as problem:
        wish = ", ".join(format_.value for format_ in Format)
        raise ConfigError(f"a report cannot be written as {path.name!r}; let its name end with {wish}") from problem


def write_report(
    path: Path, material: Material, matched: Sequence[Matched] = (), not_compared: Sequence[str] = ()
) -> None:
    """Writes the file in one step; see `page_of`.

    Raises:
        ConfigError: as `format_of`.
        OutputError: it cannot be written.
        ModuleNotFoundError: HTML needs Jinja2, of the extra [report].
    """
    match format_of(path):
        case Format.CSV:
            data = to_csv(subjects_of(material))
        case Format.MARKDOWN:
            data = to_markdown(page_of(material, matched, not_compared))
        case Format.HTML:
            data = to_html(page_of(material, matched, not_compared))
    write_bytes(path, data)


def to_html(page: Page) -> bytes:
    """One file in UTF-8: no script, nothing loaded from anywhere.

    The drawings are SVG that `plots` made of numbers and escaped words; everything else is escaped here.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  (only a page needs it)

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template, style = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))
    values = {field.name: getattr(page, field.name) for field in fields(page)}
    wider = RUN_TO_RUN_PERCENT
    return environment.from_string(template).render(values, style=style, version=__version__, wider=wider).encode()


def to_markdown(page: Page) -> bytes:
    """UTF-8, with every letter of a file's text that Markdown or HTML would take for markup escaped."""
    parts = [f"# {_plain(page.verdict.headline)}", _plain(page.about), *map(_plain, page.verdict.details)]
    if page.warnings:
        parts.append("\n".join(f"- warning: {_plain(warning)}" for warning in page.warnings))
    if page.changes:
        parts += ["## Against the baseline", _table(page.changes)]
    parts += ["## At a glance", _table(page.glance), "## From an image file to labels", _table(page.stages_table)]
    parts += ["## Throughput", _table(page.throughput_table)]
    parts += ["## Under a load that lasts", _table(page.sustained_table) if page.sustained else "Not measured."]
    parts += [_plain(page.sustained_order), "## Power, heat and clocks"]
    for watched in page.telemetry:
        parts += [_plain(watched.name), _table(watched.energy), _plain(watched.throttling)]
    if not page.telemetry:
        parts.append("Not measured.")
    for found in page.layers:
        parts += ["## Layers", _table(found)]
    for answered in page.answers:
        parts.append(f"## What {_plain(answered.candidate)} answers")
        parts.append(
            f"{answered.images} images. {answered.lost} that {_plain(answered.reference)} gets right it gets wrong,"
            f" {answered.gained} the other way round."
        )
        parts.append(_table(answered.confused))
    parts += ["## Circumstances", _table(page.lineage)]
    for circumstance in page.circumstances:
        parts += [f"### {_plain(circumstance.name)}", _table(circumstance.table)]
    parts += ["## How to repeat this", "\n".join(f"    {command}" for command in page.repeat)]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def to_csv(subjects: Sequence[Subject]) -> bytes:
    """UTF-8, one row for every bundle of every file; an empty cell was not measured. No cell is a formula."""
    rows = [_csv_row(subject) for subject in subjects]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _csv_row(subject: Subject) -> dict[str, str | float | None]:
    bundle, latency, source = subject.bundle, subject.latency_ms, subject.source
    accuracy, comparison, ratio = subject.accuracy, subject.comparison, subject.ratio
    here = source.measurement.circumstances
    return {
        "file": _harmless(source.name),
        "bundle": _harmless(bundle.name),
        "precision": bundle.precision.value,
        "engine": _harmless(f"{bundle.engine.backend} {bundle.engine.version}"),
        "threads": bundle.engine.threads,
        "processor": _harmless(here.cpu_model or ""),
        "gpu": _harmless(here.gpu or ""),
        "date": _harmless(here.date),
        "samples": latency.count,
        "p50_ms": latency.p50,
        "p90_ms": latency.p90,
        "p99_ms": latency.p99,
        "p99_9_ms": latency.p99_9,
        "spread": latency.spread,
        "ratio": ratio.ratio if ratio else None,
        "ratio_low": ratio.interval.low if ratio else None,
        "ratio_high": ratio.interval.high if ratio else None,
        "top1": accuracy.top1 if accuracy else None,
        "top1_low": accuracy.top1_interval.low if accuracy else None,
        "top1_high": accuracy.top1_interval.high if accuracy else None,
        "top1_simulated": int(subject.simulated) if accuracy else None,
        "top1_change_points": comparison.top1_change_points if comparison else None,
        **{f"{stage.value}_ms": ms for stage, ms in stages_ms(bundle).items()},
        **{f"{part.name.lower()}_ms": device_ms(bundle, part) for part in DeviceStage},
        "images_per_s": max(map(images_per_s, bundle.throughput)),
        "cold_start_ms": bundle.cold_start_ms,
        "peak_memory_mb": bundle.peak_memory_mb,
        "energy_mj": bundle.energy.mj if bundle.energy else None,
        "energy_above_idle_mj": bundle.energy.mj_above_idle if bundle.energy else None,
        "bundle_bytes": bundle.bundle_bytes,
        "model_sha256": _harmless(bundle.model_sha256),
    }


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not compute."""
    clean = shown_text(text)
    return f"'{clean}" if clean.startswith(_FORMULA) else clean


def _table(table: Table) -> str:
    rows = [table.head, ("---",) * len(table.head), *((row.name, *row.cells) for row in table.rows)]
    return "\n".join(f"| {' | '.join(cell if cell == '---' else _plain(cell) for cell in row)} |" for row in rows)


def _plain(text: str) -> str:
    return _REFERENCE.sub(r"`\g<0>`", _MARKUP.sub(r"\\\g<0>", text))
