"""``metrics.jsonl``: one line of JSON an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from googlenet_edge.errors import OutputError
from googlenet_edge.files import write_bytes


def append_line(path: Path, value: Any) -> None:
    """Adds a dataclass as one line. Raises `OutputError`."""
    try:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(value) + b"\n")
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}; free space or give another --out") from problem


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines as dictionaries; lines that a kill or a power cut damaged are left out."""
    if not path.is_file():
        return []
    return [line for text in path.read_bytes().split(b"\n") if (line := _decoded(text))]


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return None


def drop_lines_from(path: Path, *, epoch: int) -> None:
    """Removes the lines of ``epoch`` and later ones, which are going to be run again."""
    if path.is_file():
        kept = [line for line in read_lines(path) if line.get("epoch", epoch) < epoch]
        write_bytes(path, b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
