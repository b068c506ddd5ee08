"""The first command that a person types: what it says where Python does not do, and what it does not repeat."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(["make", *arguments], cwd=clone, env=environment, capture_output=True, text=True, check=False)


def python_that(clone: Path, behaviour: str) -> str:
    """A command in the place of Python; ``$2`` is the program that the Makefile passes with ``-c``."""
    program = clone / "fake-python"
    program.write_text(f"#!/bin/sh\n{behaviour}\n")
    program.chmod(0o755)
    return f"PYTHON={program}"


def test_makefile_says_that_python_is_missing(clone: Path) -> None:
    done = make(clone, "demo", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "no-such-python is not installed; install Python 3.10 or newer" in done.stderr


def test_makefile_says_that_python_is_too_old(clone: Path) -> None:
    done = make(clone, "test", python_that(clone, '[ "$1" = -V ] && echo Python 3.9.2 || exit 1'))
    assert done.returncode != 0
    assert "is Python 3.9.2. Name another: make PYTHON=python3.12" in done.stderr
    assert not (clone / ".venv").exists()


def test_makefile_says_which_package_brings_venv(clone: Path) -> None:
    done = make(clone, "test", python_that(clone, 'case "$2" in *ensurepip*) exit 1;; esac'))
    assert done.returncode != 0
    assert "lacks its venv module; on Debian and Ubuntu: sudo apt install python3-venv" in done.stderr


@pytest.mark.parametrize(("target", "stamp"), [("demo", ".build-installed"), ("test", ".dev-installed")])
def test_makefile_installs_again_only_after_a_change(clone: Path, target: str, stamp: str) -> None:
    assert "pip install" in make(clone, "--dry-run", target).stdout
    (clone / ".venv").mkdir()
    for made in (".created", stamp):
        (clone / ".venv" / made).touch()
    assert "pip install" not in make(clone, "--dry-run", target).stdout
    later = (clone / ".venv" / stamp).stat().st_mtime + 1
    os.utime(clone / "constraints.txt", (later, later))
    assert "pip install" in make(clone, "--dry-run", target).stdout
