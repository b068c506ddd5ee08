"""Class names as text: one a line, in the order of the logits."""

from __future__ import annotations

from pathlib import Path

from googlenet_edge.errors import GraphError
from googlenet_edge.files import is_name, read_file

_MAX_BYTES = 1 << 20


def read_labels(path: Path) -> tuple[str, ...]:
    """The lines of a text file, in the order of the classes. Raises `GraphError`."""
    data = read_file(path, limit=_MAX_BYTES, error=GraphError)
    try:
        labels = tuple(line.strip() for line in data.decode("utf-8-sig").rstrip().split("\n"))
    except UnicodeDecodeError as problem:
        raise GraphError(f"{path} is no text in UTF-8 ({problem.reason}); expected one label a line") from problem
    lines: dict[str, int] = {}
    for number, name in enumerate(labels, start=1):
        if not is_name(name):
            raise GraphError(f"{path} has no label in line {number} ({name!r}); expected one label a line")
        if name in lines:
            raise GraphError(f"{path} has the label {name!r} in lines {lines[name]} and {number}; make them differ")
        lines[name] = number
    return labels
