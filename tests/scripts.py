"""The scripts of benchmarks/ for tests that run them within this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"
Answer = Callable[..., tuple[int, str, str]]
"""Runs a script that ends early: (exit code, stdout, stderr)."""
