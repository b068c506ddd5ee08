"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.build import BuildReport
from googlenet_edge.engines.measurement import BundleMeasurement, Measurement, Stage
from googlenet_edge.engines.predictor import Prediction

MEGABYTE = 1e6


def build_table(report: BuildReport) -> Table:
    """A bundle beside FP32: accuracy, agreement, size."""
    table = _table("", "top-1", "95 % interval", "top-5", "model")
    reference = report.against_fp32
    if reference:
        table.add_row("fp32", *_accuracy(reference.reference), _megabytes(report.fp32_model_bytes))
    table.add_row(report.precision.value, *_accuracy(report.accuracy), _megabytes(report.model_bytes))
    return table


def comparison_sentence(comparison: Comparison) -> str:
    """What changed, and whether that can be told from chance."""
    low, high = comparison.top1_change_interval.low, comparison.top1_change_interval.high
    verdict = "not told from chance" if comparison.mcnemar_p > 0.05 else "a real difference"
    return (
        f"top-1 changes by {comparison.top1_change_points:+.2f} points ({low:+.2f}…{high:+.2f}; McNemar"
        f" p {comparison.mcnemar_p:.2f}: {verdict}); {comparison.agreement:.2%} of the predictions are equal"
    )


def evaluation_table(rows: Sequence[tuple[str, Accuracy]]) -> Table:
    """The accuracy of bundles on the same images."""
    table = _table("bundle", "top-1", "95 % interval", "top-5", "images")
    for name, accuracy in rows:
        table.add_row(name, *_accuracy(accuracy), str(accuracy.images))
    return table


def latency_table(measurement: Measurement) -> Table:
    """Latency of one image, throughput, cold start and memory of every bundle."""
    table = _table("bundle", "p50", "p90", "p99 ms", "spread", "ratio of p50", "images/s", "cold start", "peak memory")
    ratios = {ratio.name: ratio for ratio in measurement.ratios}
    for bundle in measurement.bundles:
        summary, ratio = bundle.latency.summary_ms, ratios.get(bundle.name)
        against = f"{ratio.ratio:.3f} ({ratio.interval.low:.3f}…{ratio.interval.high:.3f})" if ratio else "1"
        table.add_row(
            _short(bundle.name),
            f"{summary.p50:.2f}",
            f"{summary.p90:.2f}",
            f"{summary.p99:.2f}",
            f"{summary.spread:.1%}",
            against,
            f"{max(t.images_per_s for t in bundle.throughput):.0f}",
            _cold_start(bundle),
            _memory(bundle),
        )
    return table


def stages_table(measurement: Measurement) -> Table:
    """Where the time of one image file goes, p50 in milliseconds."""
    table = _table("p50 ms", *(stage.value for stage in Stage), "sum")
    for bundle in measurement.bundles:
        times = [bundle.stages[stage].summary_ms.p50 for stage in Stage]
        table.add_row(_short(bundle.name), *(f"{time:.2f}" for time in (*times, sum(times))))
    return table


def circumstances_sentence(measurement: Measurement) -> str:
    """Where and how it was measured."""
    here, image = measurement.circumstances, measurement.image
    engine, processor = measurement.bundles[0].engine, here.cpu_model or "unknown processor"
    return (
        f"{processor}, {engine.threads} of {here.cores} cores, {engine.backend} {engine.version},"
        f" {measurement.bundles[0].latency.summary_ms.count} runs in interleaved rounds;"
        f" stages with a {image.width}×{image.height} image"
    )


def predictions_table(rows: Sequence[tuple[str, Sequence[Prediction]]]) -> Table:
    """The best classes of every image."""
    table = _table("image", "class", "probability")
    for name, predictions in rows:
        for i, prediction in enumerate(predictions):
            table.add_row(name if i == 0 else "", prediction.label, f"{prediction.probability:.1%}")
    return table


def facts_table(facts: dict[str, str]) -> Table:
    """Names and values."""
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _accuracy(accuracy: Accuracy) -> tuple[str, str, str]:
    interval = accuracy.top1_interval
    return f"{accuracy.top1:.2%}", f"{interval.low:.2%}…{interval.high:.2%}", f"{accuracy.top5:.2%}"


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.2f} MB"


def _short(name: str) -> str:
    return "/".join(Path(name).parts[-2:])


def _cold_start(bundle: BundleMeasurement) -> str:
    totals = sorted(start.total_ms for start in bundle.cold_starts)
    return f"{totals[len(totals) // 2]:.0f} ms"


def _memory(bundle: BundleMeasurement) -> str:
    peaks = [start.peak_memory_mb for start in bundle.cold_starts if start.peak_memory_mb is not None]
    return f"{max(peaks)} MB" if peaks else "not measured"
