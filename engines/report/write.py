"""Writing a report, in the format that the name of the file asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from enum import Enum
from importlib.resources import files
from pathlib import Path

from googlenet_edge import __version__
from googlenet_edge.engines.report.judge import RUN_TO_RUN_PERCENT, Matched
from googlenet_edge.engines.report.material import Material
from googlenet_edge.engines.report.page import Page, page_of
from googlenet_edge.engines.report.subjects import subjects_of
from googlenet_edge.engines.report.text import to_csv, to_markdown
from googlenet_edge.errors import ConfigError
from googlenet_edge.files import write_bytes

_FOLDER = files("googlenet_edge.engines.report")


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


def write_report(path: Path, material: Material, matched: Sequence[Matched] = ()) -> None:
    """Writes the file in one step.

    Raises:
        ConfigError: as `format_of`.
        OutputError: it cannot be written.
        ModuleNotFoundError: HTML needs Jinja2, of the extra [report].
    """
    match format_of(path):
        case Format.CSV:
            data = to_csv(subjects_of(material))
        case Format.MARKDOWN:
            data = to_markdown(page_of(material, matched))
        case Format.HTML:
            data = to_html(page_of(material, matched))
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
