"""The wheel of this very package, packed from the files that are running: no build tool, no network, no sources needed.

The format is that of https://packaging.python.org/en/latest/specifications/binary-distribution-format/. The same files
give the same bytes, so a device that has them already is told from one that has not.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import googlenet_edge
from googlenet_edge.errors import EngineError

PACKAGE = "googlenet_edge"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can name
_WHEEL = b"Wheel-Version: 1.0\nGenerator: googlenet-edge\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_NOT_PACKED = ("__pycache__", ".", "cpp")  # sources of libgne are of no use in it


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file that pip installs: its name, and its bytes."""

    name: str
    data: bytes = field(repr=False)


def pack_wheel() -> Wheel:
    """The package that is running. Raises `EngineError` where it was not installed, so that nobody knows its needs."""
    try:
        installed = distribution("googlenet-edge")
    except PackageNotFoundError as problem:
        raise EngineError(
            "googlenet-edge runs from a folder and is not installed, so that it is not known what it needs on a"
            " device; install it with: pip install --editable FOLDER"
        ) from problem
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""  # in an egg-info
    info = f"{PACKAGE}-{installed.version}.dist-info"
    contents = _modules(Path(googlenet_edge.__file__).parent)
    contents |= {f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": _WHEEL}
    contents[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    contents[f"{info}/RECORD"] = _record(contents, f"{info}/RECORD")
    return Wheel(f"{PACKAGE}-{installed.version}-py3-none-any.whl", _archive(contents))


def _modules(folder: Path) -> dict[str, bytes]:
    """By their names in the archive; links are followed, as calibration/ and engines/ may be some."""
    found = {}
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(_NOT_PACKED))
        for name in sorted(files):
            if not name.startswith(".") and not name.endswith(".pyc"):
                path = Path(parent, name)
                found[f"{PACKAGE}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    return found


def _record(contents: dict[str, bytes], itself: str) -> bytes:
    lines = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in contents.items()]
    return "".join([*lines, f"{itself},,\n"]).encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _archive(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return file.getvalue()
