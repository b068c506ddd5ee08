"""Commands that pass on what came of it: measurements as a report and an exit code, a bundle to other servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from googlenet_edge import workspace
from googlenet_edge.commands.options import JsonOption, output
from googlenet_edge.console import named, shown
from googlenet_edge.files import check_writable
from googlenet_edge.target import Recipient

if TYPE_CHECKING:
    from googlenet_edge.engines.report.judge import Change, Matched
    from googlenet_edge.engines.report.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed from ``before``, a bundle of the baseline, to ``bundle``."""

    before: str
    bundle: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Reported:
    """What ``--json`` prints, also where a rule is broken: the verdict, and what changed since the baseline.

    ``warnings`` are those of the measurements and of the baseline, ``missing`` bundles of the baseline without a
    counterpart, ``new`` those that it lacks, ``unlike`` says what has only answers of another engine, ``broken`` and
    ``undecided`` what is the matter with rules.
    """

    verdict: Verdict
    warnings: tuple[str, ...]
    report: str | None
    changes: tuple[Changed, ...]
    missing: list[str]
    new: list[str]
    unlike: list[str]
    broken: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def not_compared(self) -> list[str]:
        """Sentences."""
        return [
            *(f"{bundle} of the baseline was not measured now, and is not compared" for bundle in self.missing),
            *(f"{bundle} is not in the baseline, and is not compared" for bundle in self.new),
            *self.unlike,
        ]


def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Of bench --out, eval --out, sensitivity --json; default: the newest under runs/."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=".html, .md or .csv; default: report.html beside the first.")
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option(help="An older measurement, and again for its answers; default: none.")
    ] = None,
    fail_if: Annotated[
        str | None, typer.Option(metavar="RULES", help="What must not be; broken, the exit code is 1; default: none.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare what was measured in different circumstances.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """A page for people from measurements; with a baseline, a gate for programs.

    A rule names p50, p90, p99, p99.9, energy, cold_start, throughput, memory,
    size (changes in %) or top1 (in points); what may be noise breaks none. With
    --baseline a page is written only where --out names one.

    Examples:
    gnet-edge report measurement.json answers.json -o report.html
    gnet-edge report new.json --baseline old.json --fail-if "p50>+5%,size>+1%"
    """
    from googlenet_edge.engines.report import verdict as verdicts
    from googlenet_edge.engines.report.judge import answers_of_other_engines, judge, without_counterpart
    from googlenet_edge.engines.report.material import read_material
    from googlenet_edge.engines.report.page import warnings_of
    from googlenet_edge.engines.report.subjects import subjects_of
    from googlenet_edge.engines.report.write import format_of, write_report
    from googlenet_edge.errors import RegressionError

    if fail_if is not None and not baseline:
        raise typer.BadParameter("--fail-if compares with an older measurement: give --baseline")
    rules = verdicts.parse_rules(fail_if) if fail_if is not None else ()
    paths = [named(taken) for taken in workspace.take_results(files or ())]
    path = out or (None if baseline else paths[0].parent / "report.html")
    if path:
        format_of(path)
        workspace.refuse_inside_bundle(path)
        check_writable(path)
    material = read_material(paths)
    old = read_material(baseline) if baseline else None
    matched = judge(old, material) if old else ()
    missing, new = without_counterpart(old, material, matched) if old else ([], [])
    unlike = [sentence for each in (old, material) if each and old for sentence in answers_of_other_engines(each)]
    if not force:
        verdicts.check_complete(rules, missing, unlike)
        verdicts.check_circumstances(matched)
    broken, undecided = verdicts.broken_sentences(rules, matched), verdicts.undecided_sentences(rules, matched)
    verdict = verdicts.verdict_of(subjects_of(material), matched)
    changes = tuple(Changed(pair.before.label, pair.after.label, pair.changes) for pair in matched)
    warnings, written = warnings_of(material, matched), str(path) if path else None
    found = Reported(verdict, warnings, written, changes, missing, new, unlike, broken, undecided)
    if path:
        write_report(path, material, matched, found.not_compared)
    if broken:
        output(found, as_json)
        raise RegressionError("; ".join(broken))
    _tell(found, matched)
    output(found, as_json)


def _tell(found: Reported, matched: Sequence[Matched]) -> None:
    from googlenet_edge.engines.report.cells import changes_table as cells_of
    from googlenet_edge.engines.tables import changes_table

    if matched:
        shown(changes_table(cells_of(matched)))
    shown(found.verdict.headline)
    for sentence in (*(f"warning: {text}" for text in found.warnings), *found.not_compared, *found.undecided):
        shown(sentence)
    if found.report:
        shown(f"report: {found.report}")


def package(
    bundle: Annotated[Path | None, typer.Argument(help="Default: the newest under runs/.")] = None,
    recipient: Annotated[Recipient, typer.Option("--for", help="What is to run it.")] = Recipient.DOCKER,
    out: Annotated[Path | None, typer.Option(help="A new folder; default: BUNDLE-RECIPIENT beside the bundle.")] = None,
) -> None:
    """A bundle as Triton, DeepStream or Docker take it: configuration, labels, model, and the commands to run it.

    Examples:
    gnet-edge package --for docker
    gnet-edge package runs/photos/int8-orin-nano --for deepstream
    """
    from googlenet_edge.engines.package import README, write_package

    path = named(workspace.take_bundle(bundle))
    folder = out or workspace.named_after(path, f"-{recipient.value}")
    packed = write_package(path, recipient, folder)
    for name in sorted(packed):
        shown(f"{len(packed[name]):>12,} bytes  {name}")
    shown(f"how to run it: {folder / README}")
