"""The page as one HTML file: no script, nothing loaded from anywhere, every text of a file escaped."""

from __future__ import annotations

from dataclasses import fields
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from googlenet_edge import __version__
from googlenet_edge.engines.report.page import Page

_FOLDER = files("googlenet_edge.engines.report")


def to_html(page: Page) -> bytes:
    """UTF-8. The drawings are SVG that `plots` made of numbers and escaped words; everything else is escaped here."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup
    values = {field.name: getattr(page, field.name) for field in fields(page)}
    style = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(values, style=style, version=__version__).encode()


def _template(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
