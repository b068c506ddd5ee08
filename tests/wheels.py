"""Wheels of other projects that tests look into without installing them, by pip and held against a hash."""

from __future__ import annotations

import sys
from pathlib import Path

from libgne import done

HERE = Path(__file__).parent


def wheel(requirements: str, folder: Path, *options: str) -> Path:
    """The one wheel that a file beside this one names."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes")
    done(*pip, *options, "--dest", folder, "--requirement", HERE / requirements)
    [found] = folder.glob("*.whl")
    return found
