"""The page as one HTML file: no script, nothing loaded from anywhere, every text of a file escaped."""

from __future__ import annotations

from dataclasses import fields
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from googlenet_edge import __version__
from googlenet_edge.engines.report.judge import RUN_TO_RUN_PERCENT
from googlenet_edge.engines.report.page import Page

_FOLDER = files("googlenet_edge.engines.report")


def to_html(page: Page) -> bytes:
    """UTF-8. The drawings are SVG that `plots` made of numbers and escaped words; everything else is escaped here."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template, style = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.html", "page.css"))
    values = {field.name: getattr(page, field.name) for field in fields(page)}
    wider = RUN_TO_RUN_PERCENT
    return environment.from_string(template).render(values, style=style, version=__version__, wider=wider).encode()
