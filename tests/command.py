"""The command line as a person meets it, run within this process: quick, and any traceback fails the test."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from googlenet_edge.cli import main


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def gnet_edge(*arguments: str | Path, cwd: Path) -> Outcome:
    """`gnet-edge ARGUMENTS` typed in the folder ``cwd``."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before = Path.cwd(), sys.argv
    os.chdir(cwd)
    sys.argv = ["gnet-edge", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os.chdir(before[0])
        sys.argv = before[1]
    out.flush()
    return Outcome(code, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]


def done(*arguments: str | Path, cwd: Path) -> Outcome:
    """The same for a command that has to succeed."""
    outcome = gnet_edge(*arguments, cwd=cwd)
    assert outcome.code == 0, outcome.err
    return outcome


@dataclass(frozen=True, slots=True)
class Built:
    """A working folder after ``gnet-edge build``, and what that said for FP32 and for INT8."""

    folder: Path
    fp32: Outcome
    int8: Outcome


def copy_of(work: Path, to: Path) -> Path:
    """A copy of a working folder, whose run was trained on the copy of the images."""
    shutil.copytree(work, to)
    record = to / "runs" / "photos" / "run.json"
    record.write_text(record.read_text().replace(str(work), str(to)))
    return to


def contents(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Every file below a folder with its size and the nanosecond in which it was written; folders have neither."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[path.relative_to(folder).as_posix()] = None if path.is_dir() else (state.st_size, state.st_mtime_ns)
    return found


def refused(outcome: Outcome, sentence: str) -> None:
    """Asserts that a command said one thing, that it is this, and that it failed."""
    assert re.fullmatch(f"gnet-edge: {sentence}\n", outcome.err), outcome.err
    assert (outcome.code, outcome.out) == (1, "")


def refused_without_a_trace(sentence: str, *arguments: str | Path, cwd: Path) -> None:
    """The same, and the folder is as it was."""
    before = contents(cwd)
    refused(gnet_edge(*arguments, cwd=cwd), sentence)
    assert contents(cwd) == before
