"""What the benchmarks share: figures with what is asked of them, and how a result is shown and kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from googlenet_edge.engines.bench import doubts
from googlenet_edge.engines.circumstances import Circumstances, watch_others
from googlenet_edge.errors import EdgeError
from googlenet_edge.files import to_json, write_bytes

_cores_of_others = watch_others()


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, and the limit that it is asked to keep, if any.

    ``value``, ``most`` and ``least`` are in ``unit``; ``detail`` says how sure the number is, or where it comes from.
    """

    what: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None
    detail: str = ""

    @property
    def asked(self) -> str:
        """The limit in words."""
        if self.most is not None:
            return f"≤ {self.most:g} {self.unit}".strip()
        return f"≥ {self.least:g} {self.unit}".strip() if self.least is not None else "–"

    @property
    def reached(self) -> str:
        """Whether the limit is kept."""
        if self.most is None and self.least is None:
            return "–"
        kept = (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)
        return "yes" if kept else "no"


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found, and under which circumstances; ``details`` are its samples, in a form of its own."""

    figures: tuple[Figure, ...]
    circumstances: Circumstances
    details: Any


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the description as it is written."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=_Help)
    made.add_argument("--out", type=Path, metavar="FILE.json", help="keep the figures and every sample in this file")
    return made


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of ``least`` or more."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return count


def conclude(result: Result, out: Path | None) -> None:
    """Shows the figures, and keeps them. Raises `OutputError`."""
    rows = [(f.what, f"{f.value:.4g} {f.unit}".strip(), f.detail or "–", f.asked, f.reached) for f in result.figures]
    show(markdown(("what", "measured", "detail", "asked", "reached"), rows))
    result = replace(result, circumstances=replace(result.circumstances, cores_of_others=_cores_of_others()))
    here = result.circumstances
    show(f"{here.date}, {here.cpu_model}, {here.cores} cores, Python {here.python}")
    for doubt in doubts(here, ()):
        show(f"doubtful: {doubt}")
    if out:
        write_bytes(out, to_json(result))
        show(f"kept: {out}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def run(main: Callable[[], None]) -> None:
    """Runs a script; what a user can mend becomes one line on stderr and exit code 1."""
    try:
        main()
    except EdgeError as problem:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {problem}\n")
        sys.exit(1)
