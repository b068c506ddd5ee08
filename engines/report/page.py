"""What a page of a report shows, from top to bottom: text and drawings, nothing left to decide."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import PurePath
from statistics import median

from googlenet_edge.engines.evaluate import Answers, thumbnail_of
from googlenet_edge.engines.measurement import BundleMeasurement, Measurement
from googlenet_edge.engines.report import cells, plots
from googlenet_edge.engines.report.cells import Table, Telemetry, telemetry_of
from googlenet_edge.engines.report.judge import Matched
from googlenet_edge.engines.report.material import Layers, Material, Source
from googlenet_edge.engines.report.subjects import (
    Pair,
    Subject,
    label_of,
    pairs_of,
    shown_name,
    shown_text,
    software_changes,
    subjects_of,
    unlike_images,
)
from googlenet_edge.engines.report.verdict import Verdict, milliseconds, verdict_of
from googlenet_edge.engines.rounds import BenchPlan
from googlenet_edge.errors import DamagedImageError
from googlenet_edge.statistics import median_interval

MOST_MISTAKES = 24


@dataclass(frozen=True, slots=True)
class LatencyCard:
    """One bundle's distribution; ``share`` and ``share_p99`` (0…100) are its bar beside the slowest bundle's p99."""

    name: str
    colour: int
    p50: str
    p99: str
    share: float
    share_p99: float
    spread: str
    slowest: str
    histogram: str
    rounds: str


@dataclass(frozen=True, slots=True)
class StagePart:
    """A stage's piece of a bar; ``share`` (0…100) is of the longest bar."""

    number: int
    name: str
    ms: str
    share: float


@dataclass(frozen=True, slots=True)
class StageBar:
    """One bundle's way from an image file to labels."""

    name: str
    colour: int
    total: str
    parts: tuple[StagePart, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that the reference gets right and the candidate wrong; ``picture`` is a data URI, or empty."""

    picture: str
    path: str
    truth: str
    answered: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What one candidate answered: its confusions, and its mistakes beside the reference."""

    candidate: str
    reference: str
    images: int
    confusion: str
    confused: Table
    lost: int
    gained: int
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, slots=True)
class Circumstance:
    """One file's circumstances."""

    name: str
    table: Table


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page. What is empty was not measured."""

    about: str
    verdict: Verdict
    warnings: tuple[str, ...]
    changes: Table | None
    software: tuple[str, ...]
    glance: Table
    latency: tuple[LatencyCard, ...]
    stages: tuple[StageBar, ...]
    stages_table: Table
    accuracy: str
    throughput: str
    throughput_table: Table
    sustained: str
    sustained_table: Table
    sustained_order: str
    telemetry: tuple[Telemetry, ...]
    layers: tuple[Table, ...]
    answers: tuple[Answered, ...]
    circumstances: tuple[Circumstance, ...]
    lineage: Table
    repeat: tuple[str, ...]


def page_of(material: Material, matched: Sequence[Matched] = (), not_compared: Sequence[str] = ()) -> Page:
    """The page about ``material``; ``matched`` is its comparison with a baseline, where there is one.

    ``not_compared``: sentences about what that leaves out.
    """
    subjects = subjects_of(material)
    return Page(
        about=_about(material.sources),
        verdict=verdict_of(subjects, matched),
        warnings=(*warnings_of(material, matched), *not_compared),
        changes=cells.changes_table(matched) if matched else None,
        software=_software(matched),
        glance=cells.glance_table(subjects),
        latency=_latency_cards(subjects),
        stages=_stage_bars(subjects),
        stages_table=cells.stages_table(subjects),
        accuracy=_accuracy_plot(subjects),
        throughput=_throughput_plot(subjects),
        throughput_table=cells.throughput_table(subjects),
        sustained=_sustained_plot(subjects),
        sustained_table=cells.sustained_table(subjects),
        sustained_order=_sustained_order(subjects),
        telemetry=tuple(found for s in material.sources if (found := telemetry_of(s, subjects))),
        layers=tuple(cells.layers_table(found) for found in material.layers),
        answers=tuple(_answered(pair, subjects) for pair in pairs_of(material.answers)),
        circumstances=tuple(Circumstance(shown_text(s.name), cells.circumstances_table(s)) for s in material.sources),
        lineage=cells.lineage_table(subjects),
        repeat=repeat_commands(material),
    )


def _about(sources: Sequence[Source]) -> str:
    """Where and when, in a line."""
    found = []
    for source in sources:
        here = source.measurement.circumstances
        threads = source.measurement.bundles[0].engine.threads
        machine = shown_text(source.measurement.machine)
        found.append(f"{machine}, {threads} of {here.cores} cores, {shown_text(here.date)[:10]}")
    return "; ".join(dict.fromkeys(found))


def warnings_of(material: Material, matched: Sequence[Matched] = ()) -> tuple[str, ...]:
    """What makes the figures doubtful, those of the baseline too; with the name of the file where there are several."""
    before = {pair.before.source.name: pair.before.source for pair in matched}
    sources = (*material.sources, *before.values())
    many = len(sources) > 1
    told = [f"{s.name}: {warning}" if many else warning for s in sources for warning in s.measurement.warnings]
    return tuple(map(shown_text, (*told, *unlike_images(subjects_of(material)))))


def _software(matched: Sequence[Matched]) -> tuple[str, ...]:
    found = software_changes(matched[0].before.source, matched[0].after.source) if matched else ()
    return tuple(shown_text(text, most=120) for text in found)


def _latency_cards(subjects: Sequence[Subject]) -> tuple[LatencyCard, ...]:
    slowest = max(subject.latency_ms.p99 for subject in subjects)
    found = []
    for subject in subjects:
        summary, rounds = subject.latency_ms, subject.bundle.latency.rounds_ms
        times = [time for one in rounds for time in one]
        found.append(
            LatencyCard(
                name=subject.label,
                colour=subject.number,
                p50=milliseconds(summary.p50),
                p99=milliseconds(summary.p99),
                share=round(100 * summary.p50 / slowest, 2),
                share_p99=round(100 * summary.p99 / slowest, 2),
                spread=f"{100 * summary.spread:.1f} %",
                slowest=milliseconds(max(times)),
                histogram=plots.histogram(times, summary, colour=subject.number),
                rounds=plots.by_round(rounds, colour=subject.number),
            )
        )
    return tuple(found)


def _stage_bars(subjects: Sequence[Subject]) -> tuple[StageBar, ...]:
    times = [cells.stages_ms(subject.bundle) for subject in subjects]
    longest = max(sum(row.values()) for row in times)
    bars = []
    for subject, row in zip(subjects, times, strict=True):
        parts = [
            StagePart(number, stage.value, milliseconds(ms), round(100 * ms / longest, 2))
            for number, (stage, ms) in enumerate(row.items(), start=1)
        ]
        bars.append(StageBar(subject.label, subject.number, milliseconds(sum(row.values())), tuple(parts)))
    return tuple(bars)


def _accuracy_plot(subjects: Sequence[Subject]) -> str:
    spots = []
    for subject in subjects:
        accuracy = subject.accuracy
        if accuracy:
            medians = [median(times) for times in subject.bundle.latency.rounds_ms]
            percent = accuracy.top1_interval.percent()
            latency = subject.latency_ms.p50, median_interval(medians)
            spots.append(plots.Spot(subject.number, *latency, 100 * accuracy.top1, percent, subject.simulated))
    return plots.accuracy_against_latency(spots) if spots else ""


def _throughput_plot(subjects: Sequence[Subject]) -> str:
    """One line for each bundle: at every number of images at once, the best way."""
    found = []
    ways = sorted({batch.batch for subject in subjects for batch in subject.bundle.throughput})
    for subject in subjects:
        best: dict[int, float] = {}
        for batch in subject.bundle.throughput:
            best[batch.batch] = max(best.get(batch.batch, 0.0), cells.images_per_s(batch))
        if len(best) > 1:
            points = tuple((ways.index(at), rate) for at, rate in sorted(best.items()))
            found.append(plots.Curve(subject.number, points))
    named = {float(place): str(images) for place, images in enumerate(ways)}
    return plots.curves(found, across="images at once", along="images/s", named=named) if found else ""


def _sustained_plot(subjects: Sequence[Subject]) -> str:
    """The medians of the windows, over the time since the load of each bundle began."""
    found = [
        plots.Curve(subject.number, tuple((window.start_s, window.p50_ms) for window in load.windows))
        for subject in subjects
        if (load := subject.bundle.sustained)
    ]
    return plots.curves(found, across="seconds", along="p50, ms") if found else ""


def _sustained_order(subjects: Sequence[Subject]) -> str:
    """Which load of each measurement came first: the device was cooler for it. Empty where none had two."""
    found = []
    for source in {subject.source.name: subject.source for subject in subjects}.values():
        loads = [(s.bundle.sustained.started_s, s.label) for s in subjects if s.source is source and s.bundle.sustained]
        if len(loads) > 1:
            found.append(", then ".join(label for _, label in sorted(loads, key=itemgetter(0))))
    order = "; ".join(found)
    return order and f"One load after the other, so that a later one began on a warmer device: {order}."


def _answered(pair: Pair, subjects: Sequence[Subject]) -> Answered:
    about, evaluation = pair.answers, pair.answers.evaluation(pair.candidate)
    right, expected = evaluation.correct, about.evaluation(pair.reference).correct
    small = len(about.class_names) <= plots.MOST_CONFUSION_CLASSES
    lost = (expected & ~right).nonzero()[0].tolist()
    named = [(subject.label, subject.bundle) for subject in subjects]
    return Answered(
        candidate=label_of(pair.candidate, named),
        reference=label_of(pair.reference, named),
        images=len(about.images),
        confusion=plots.confusion(evaluation.confusion, [*map(shown_name, about.class_names)]) if small else "",
        confused=cells.confused_table(evaluation),
        lost=len(lost),
        gained=int((right & ~expected).sum()),
        mistakes=_mistakes(about, pair, lost[:MOST_MISTAKES]),
    )


def _mistakes(about: Answers, pair: Pair, images: Sequence[int]) -> tuple[Mistake, ...]:
    jpegs = {thumbnail.image: thumbnail.jpeg for thumbnail in about.thumbnails}
    return tuple(
        Mistake(
            picture=_data_uri(jpegs.get(i)),
            path=shown_text(about.images[i], most=120),
            truth=shown_name(about.class_names[about.labels[i]]),
            answered=shown_name(about.class_names[pair.candidate.predicted[i]]),
        )
        for i in images
    )


def _data_uri(jpeg: bytes | None) -> str:
    """Decoded and encoded anew, so that what is embedded is a picture and nothing else; what is none is left out."""
    if jpeg is None:
        return ""
    try:
        return f"data:image/jpeg;base64,{b64encode(thumbnail_of(jpeg)).decode()}"
    except DamagedImageError:
        return ""


def repeat_commands(material: Material) -> tuple[str, ...]:
    """What to type, quoted for a shell; comments name what no file knows."""
    named = [
        *((_bench(source.measurement), f"measurement{_suffix(n)}.json") for n, source in enumerate(material.sources)),
        *((_eval(about), f"answers{_suffix(n)}.json") for n, about in enumerate(material.answers)),
    ]
    commands = [f"{command} --out {file}" for command, file in named]
    files = [file for _, file in named]
    for number, found in enumerate(material.layers):
        files.append(f"layers{_suffix(number)}.json")
        commands.append(f"{_sensitivity(found)} > {files[-1]}")
    return (*commands, f"gnet-edge report {' '.join(files)} -o report.html", *_unknown(material))


def _bench(found: Measurement) -> str:
    bundles = found.bundles
    streams = max((batch.streams for bundle in bundles for batch in bundle.throughput), default=1)
    plan = next((bundle.sustained.plan for bundle in bundles if bundle.sustained), None)
    lasting = f" --sustained {plan.seconds:g}s" if plan else ""
    camera = f" --fps {plan.fps:g}" if plan and plan.fps else ""
    return (
        f"gnet-edge bench {_quoted(bundle.name for bundle in bundles)} --threads {bundles[0].engine.threads}"
        f" --streams {streams}{_rounds(bundles[0])}"
        f"{_common('--device', (bundle.engine.device.value for bundle in bundles))}"
        f"{_common('--engine', (bundle.engine.backend for bundle in bundles))}{lasting}{camera}"
    )


def _rounds(bundle: BundleMeasurement) -> str:
    """Nothing where the number was found while measuring: then there are 10 rounds of throughput."""
    rounds, others = len(bundle.latency.rounds_ms), {len(batch.latency.rounds_ms) for batch in bundle.throughput}
    plan = BenchPlan()
    found = rounds >= plan.least_rounds and others == {plan.throughput_rounds}
    return "" if found else f" --rounds {rounds}"


def _eval(about: Answers) -> str:
    """The images were those of ``val/`` where a folder is divided so."""
    data = PurePath(about.data)
    folder = str(data.parent if data.name == "val" else data)
    engine = _common("--engine", (bundle.backend for bundle in about.bundles))
    return f"gnet-edge eval {_quoted(bundle.bundle for bundle in about.bundles)} --data {_quoted([folder])}{engine}"


def _sensitivity(found: Layers) -> str:
    return f"gnet-edge sensitivity CHECKPOINT --images {found.images} --threads {found.threads} --json"


def _unknown(material: Material) -> list[str]:
    """What the commands leave out, in lines of comment."""
    found = []
    for source in material.sources:
        name, image = shown_text(source.name, most=120), source.measurement.image
        size = f"{shown_text(image.sha256)[:12]}, {image.width}×{image.height}"
        clocks = ", --power-mode, --lock-clocks" if source.measurement.circumstances.jetson else ""
        found.append(f"# not known of {name}: --host, --image (SHA-256 {size}){clocks}")
    if material.layers:
        found.append("# not known of the layers: CHECKPOINT, --data, --calibration-images, --method")
    return found


def _common(option: str, values: Iterable[str]) -> str:
    """The option where it is the same for all; by default each bundle has its own."""
    found = set(values)
    value = found.pop()
    return "" if found else f" {option} {_quoted([value])}"


def _quoted(texts: Iterable[str]) -> str:
    """What begins as an option does is a path from here."""
    shown = (shown_text(text) for text in texts)
    return " ".join(shlex.quote(f"./{text}" if text.startswith("-") else text) for text in shown)


def _suffix(place: int) -> str:
    return f"-{place + 1}" if place else ""
