"""What a comparison found: a row for every model, the table for people, and the figures that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from common import Figure, markdown
from peer_engines import Timing
from peer_quantizers import Cost, Looks

from googlenet_edge.engines.accuracy import Comparison
from googlenet_edge.engines.timing import Ratio, paired_ratio

LEAST_AGREEMENT, LEAST_SQNR_GAIN_DB = 99.6, 2.0
MOST_RATIO, MOST_RATIO_ONNXRUNTIME, MOST_MEMORY_SHARE = 0.97, 0.85, 0.1
HEAD = ("model", "top-1", "change, points (95 % interval)", "McNemar's p", "agreement", "logit SQNR", "size")


class Origin(Enum):
    """Whose model it is."""

    REFERENCE = "reference"
    OURS = "ours"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Judged:
    """A model on the validation images. ``against_fp32`` compares FP32 with itself in its own row."""

    top1: float
    against_fp32: Comparison
    sqnr_db: float
    model_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """Everything about a model; what failed or was not asked for is missing, and ``note`` says why.

    ``timings`` are by threads; ``looks`` is what the quantizer looks at.
    """

    model: str
    origin: Origin
    judged: Judged | None = None
    timings: dict[int, Timing] = field(default_factory=dict)
    cost: Cost | None = None
    looks: Looks | None = None
    note: str = ""

    @property
    def keeps_accuracy(self) -> bool:
        """Whether its top-1 cannot be told from that of FP32."""
        return self.judged is not None and not self.judged.against_fp32.differs


def p50(row: Row, threads: int) -> float:
    """Milliseconds; infinite where it was not timed."""
    return row.timings[threads].latency.summary_ms.p50 if threads in row.timings else float("inf")


def fastest(rows: Sequence[Row], threads: int) -> Row | None:
    """The row with the lowest median, of those that were timed."""
    timed = [row for row in rows if threads in row.timings]
    return min(timed, key=lambda row: p50(row, threads), default=None)


def best_of_ours(rows: Sequence[Row], threads: int) -> Row | None:
    """The fastest of our bundles."""
    return fastest([row for row in rows if row.origin is Origin.OURS], threads)


def ratio(row: Row, reference: Row, threads: int) -> Ratio:
    """The time of ``row`` over that of ``reference``, round by round of the same run."""
    first, second = (each.timings[threads].latency.rounds_ms for each in (row, reference))
    return paired_ratio(first, second)


def table_of(rows: Sequence[Row], threads: Sequence[int]) -> str:
    """The comparison as Markdown."""
    timed = [part for n in threads for part in (f"p50, {_words(n)}", f"best of ours / it, {_words(n)} (95 % interval)")]
    cells = [
        (
            row.model,
            *_accuracy_cells(row),
            *_cost_cells(row.cost),
            *(part for n in threads for part in _time_cells(row, rows, n)),
            row.note.replace("|", "/") or "–",
        )
        for row in rows
    ]
    return markdown((*HEAD, "quantizing", "peak memory", *timed, "note"), cells)


def _accuracy_cells(row: Row) -> tuple[str, ...]:
    if row.judged is None:
        return ("–",) * (len(HEAD) - 1)
    judged, found = row.judged, row.judged.against_fp32
    size = f"{judged.model_bytes / 1e6:.2f} MB"
    if row.origin is Origin.REFERENCE:
        return (f"{judged.top1:.2%}", "–", "–", "–", "–", size)
    interval = found.top1_change_interval
    change = f"{found.top1_change_points:+.2f} ({interval.low:+.2f}…{interval.high:+.2f})"
    return (
        f"{judged.top1:.2%}",
        change,
        f"{found.mcnemar_p:.2g}",
        f"{found.agreement:.2%}",
        f"{judged.sqnr_db:.1f} dB",
        size,
    )


def _cost_cells(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return "–", "–"
    memory = "–" if cost.peak_memory_mb is None else f"{cost.peak_memory_mb:.0f} MB"
    if cost.full_at_mb:
        memory += f" (out of memory at {cost.full_at_mb:.0f})"
    return f"{cost.seconds:.1f} s", memory


def _time_cells(row: Row, rows: Sequence[Row], threads: int) -> tuple[str, str]:
    best = best_of_ours(rows, threads)
    if threads not in row.timings:
        return "–", "–"
    time = f"{p50(row, threads):.3f} ms"
    if best is None or best is row:
        return time, "–"
    found = ratio(best, row, threads)
    return time, f"{found.ratio:.3f} ({found.interval.low:.3f}…{found.interval.high:.3f})"


def _words(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def figures_of(rows: Sequence[Row], threads: Sequence[int]) -> tuple[Figure, ...]:
    """What is asked of the best of ours, as far as it can be said."""
    found: list[Figure] = []
    peers = [row for row in rows if row.origin is Origin.PEER]
    ours = best_of_ours(rows, threads[0]) or next((row for row in rows if row.origin is Origin.OURS), None)
    if ours and ours.judged:
        found += _accuracy_figures(ours, ours.judged, peers)
    for n in threads:
        found += _time_figures(rows, peers, n)
    if ours and ours.cost:
        found += _cost_figures(ours.cost, peers)
    return tuple(found)


def _accuracy_figures(ours: Row, judged: Judged, peers: Sequence[Row]) -> list[Figure]:
    compared, interval = judged.against_fp32, judged.against_fp32.top1_change_interval
    detail = f"95 % interval {interval.low:+.2f}…{interval.high:+.2f} points, {compared.top1_change_points:+.2f} points"
    figures = [
        Figure(f"McNemar's p against FP32, {ours.model}", compared.mcnemar_p, least=0.05, detail=detail),
        Figure(f"agreement with FP32, {ours.model}", 100 * compared.agreement, "%", least=LEAST_AGREEMENT),
    ]
    judged_peers = [(row.judged.sqnr_db, row.model) for row in peers if row.judged]
    if judged_peers:
        best, name = max(judged_peers)
        figures.append(
            Figure(
                "logit SQNR above the best peer's",
                judged.sqnr_db - best,
                "dB",
                least=LEAST_SQNR_GAIN_DB,
                detail=f"{judged.sqnr_db:.1f} dB against {best:.1f} dB of {name}",
            )
        )
    return figures


def _time_figures(rows: Sequence[Row], peers: Sequence[Row], threads: int) -> list[Figure]:
    best, figures = best_of_ours(rows, threads), []
    equal = [row for row in peers if row.keeps_accuracy]
    asked = (
        ("the fastest peer that keeps the accuracy", fastest(equal, threads), MOST_RATIO),
        (
            "the fastest of ONNX Runtime's own",
            fastest([row for row in equal if row.model.startswith("ONNX Runtime")], threads),
            MOST_RATIO_ONNXRUNTIME,
        ),
    )
    for words, peer, most in asked:
        if best and peer:
            found = ratio(best, peer, threads)
            detail = f"{best.model} / {peer.model}, 95 % interval {found.interval.low:.3f}…{found.interval.high:.3f}"
            figures.append(Figure(f"best of ours / {words}, {_words(threads)}", found.ratio, most=most, detail=detail))
    return figures


def _cost_figures(ours: Cost, peers: Sequence[Row]) -> list[Figure]:
    figures = []
    further = [(row.cost.seconds, row.model) for row in peers if row.cost and row.looks is Looks.MORE]
    if further:
        seconds, name = min(further)
        detail = f"{name} takes {seconds:.1f} s"
        figures.append(Figure("quantizing", ours.seconds, "s", most=seconds, detail=detail))
    peaks = [
        (row.cost.most_memory_mb, row.model)
        for row in peers
        if row.cost and row.cost.most_memory_mb and row.model.startswith("ONNX Runtime") and row.looks is Looks.MORE
    ]
    if peaks and ours.peak_memory_mb:
        most, name = max(peaks)
        share = ours.peak_memory_mb / most
        detail = f"{ours.peak_memory_mb:.0f} MB of {most:.0f} MB, with all images at once"
        figures.append(Figure(f"peak memory / that of {name}", share, most=MOST_MEMORY_SHARE, detail=detail))
    return figures
