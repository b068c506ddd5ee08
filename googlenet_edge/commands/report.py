"""The command that turns measurements into a report, and into an exit code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from googlenet_edge import workspace
from googlenet_edge.commands.options import JsonOption, output
from googlenet_edge.console import named, shown
from googlenet_edge.files import check_writable

if TYPE_CHECKING:
    from googlenet_edge.engines.report.judge import Change
    from googlenet_edge.engines.report.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Reported:
    """What ``--json`` prints: the verdict, and by bundle what changed since the baseline."""

    verdict: Verdict
    report: str | None
    changes: dict[str, tuple[Change, ...]]


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
        str | None, typer.Option(metavar="RULES", help="Exit with 1 where one is broken; default: none.")
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
    gnet-edge report new.json --baseline old.json --fail-if "p50>+5%,top1<-0.2"
    """
    from googlenet_edge.engines.report import gate
    from googlenet_edge.engines.report.cells import changes_table as cells_of
    from googlenet_edge.engines.report.judge import judge
    from googlenet_edge.engines.report.material import read_material
    from googlenet_edge.engines.report.subjects import subjects_of
    from googlenet_edge.engines.report.verdict import verdict_of
    from googlenet_edge.engines.report.write import format_of, write_report
    from googlenet_edge.engines.tables import changes_table

    if fail_if is not None and not baseline:
        raise typer.BadParameter("--fail-if compares with an older measurement: give --baseline")
    rules = gate.parse_rules(fail_if) if fail_if is not None else ()
    paths = [named(taken) for taken in workspace.take_results(files or ())]
    path = out or (None if baseline else paths[0].with_name("report.html"))
    if path:
        format_of(path)
        check_writable(path)
    material = read_material(paths)
    matched = judge(read_material(baseline), material) if baseline else ()
    if not force:
        gate.check_circumstances(matched)
    if path:
        write_report(path, material, matched)
    gate.check_rules(rules, matched)
    verdict = verdict_of(subjects_of(material), matched)
    if matched:
        shown(changes_table(cells_of(matched)))
    shown(verdict.headline)
    for sentence in gate.undecided_sentences(rules, matched):
        shown(sentence)
    if path:
        shown(f"report: {path}")
    changes = {pair.after.label: pair.changes for pair in matched}
    output(Reported(verdict, str(path) if path else None, changes), as_json)
