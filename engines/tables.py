"""Results as tables for people."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import MODEL, EngineTrial, Manifest
from googlenet_edge.engines.devices import KnownDevice
from googlenet_edge.engines.energy import total_power
from googlenet_edge.engines.measurement import BundleMeasurement, Measurement, Stage
from googlenet_edge.engines.predictor import Prediction
from googlenet_edge.engines.protocol import DeviceStage
from googlenet_edge.engines.sensors import Watched
from googlenet_edge.statistics import FEWEST_FOR_P99_9, wilson_interval
from googlenet_edge.target import EngineName

if TYPE_CHECKING:
    from googlenet_edge.calibration.table import Choice
    from googlenet_edge.engines.doctor import Diagnosis
    from googlenet_edge.engines.finetune import FinetuneReport
    from googlenet_edge.engines.report.cells import Table as Cells
    from googlenet_edge.engines.sensitivity import Sensitivity
    from googlenet_edge.engines.slimming import SlimReport

MEGABYTE = 1e6


def accuracy_table(manifest: Manifest) -> Table:
    """A bundle beside FP32: accuracy with its interval, size of the model."""
    table = _table("precision", "top-1", "95 % interval", "top-5", "model")
    if manifest.against_fp32 and manifest.fp32_model_bytes:
        table.add_row("fp32", *_accuracy(manifest.against_fp32.reference), _megabytes(manifest.fp32_model_bytes))
    if manifest.accuracy:
        simulated = ", simulated" if manifest.engine is EngineName.SIMULATED else ""
        name, size = manifest.precision.value + simulated, _megabytes(manifest.files[MODEL].size)
        table.add_row(name, *_accuracy(manifest.accuracy), size)
    return table


def trials_table(choice: Choice) -> Table:
    """What was tried when the calibration was chosen, in its order."""
    table = _table(f"trial on {choice.images} held-out images", "logit SQNR", "taken")
    for trial in choice.trials:
        table.add_row(trial.what, f"{trial.sqnr_db:.1f} dB", "yes" if trial.taken else "")
    table.caption = choice.why_headroom
    return table


def engines_table(trials: Sequence[EngineTrial]) -> Table:
    """The engines that were tried, and what became of each."""
    table = _table("engine", "p50 ms (95 % CI)", "ratio", "top-1", "equal", "")
    for trial in trials:
        table.add_row(
            f"{trial.engine.value} {trial.version}",
            f"{trial.p50_ms:.2f} ({trial.p50_interval_ms:.2f})",
            f"{trial.ratio:.3f}",
            f"{trial.top1_change_points:+.2f}",
            f"{trial.agreement:.2%}",
            trial.verdict.value,
        )
    return table


def evaluation_table(rows: Sequence[tuple[str, Accuracy]]) -> Table:
    """The accuracy of bundles on the same images."""
    table = _table("bundle", "top-1", "95 % interval", "top-5", "images")
    for name, accuracy in rows:
        table.add_row(name, *_accuracy(accuracy), str(accuracy.images))
    return table


def finetune_table(report: FinetuneReport) -> Table:
    """FP32, INT8 as calibrated and INT8 as fine-tuned, on the same images; how often INT8 answers as FP32 does."""
    table = _table("", "top-1", "95 % interval", "top-5", "as fp32", "95 % interval")
    table.add_row("fp32, the teacher", *_accuracy(report.before.against_fp32.reference), "", "")
    for name, int8 in (("int8 before", report.before), ("int8 after", report.after)):
        table.add_row(name, *_accuracy(int8.accuracy), *_agreement(int8.against_fp32))
    return table


def measurement_parts(measurement: Measurement) -> Iterator[RenderableType]:
    """All that was measured; of sensors, where the machine is a Jetson."""
    jetson, watched = measurement.circumstances.jetson, measurement.watched
    yield from (table(measurement) for table in (latency_table, resources_table, stages_table))
    if any(bundle.sustained for bundle in measurement.bundles):
        yield sustained_table(measurement)
    if jetson and watched:
        yield from (energy_table(measurement), sensors_table(watched), watched.throttling, str(jetson))
    yield circumstances_sentence(measurement)
    yield from (f"warning: {warning}" for warning in measurement.warnings)


def latency_table(measurement: Measurement) -> Table:
    """Latency of one image, and the ratio to the reference with its interval."""
    table = _table("latency", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "spread", "ratio of p50 (95 % CI)")
    ratios = {ratio.name: ratio for ratio in measurement.ratios}
    for bundle in measurement.bundles:
        summary, ratio = bundle.latency.summary_ms, ratios.get(bundle.name)
        table.add_row(
            _name(bundle, measurement),
            *(f"{time:.2f}" for time in (summary.p50, summary.p90, summary.p99)),
            f"{summary.p99_9:.2f}" if summary.p99_9 else "–",
            f"{summary.spread:.1%}",
            f"{ratio.ratio:.3f} ({ratio.interval:.3f})" if ratio else "1",
        )
    summaries = [bundle.latency.summary_ms for bundle in measurement.bundles]
    counts = [summary.count for summary in summaries if summary.p99_9 is None]
    if counts:
        table.caption = f"p99.9 not measured: {min(counts):,} of at least {FEWEST_FOR_P99_9:,} samples"
    return table


def resources_table(measurement: Measurement) -> Table:
    """What a bundle gives and takes beside latency: throughput at its best batch, cold start, memory, size."""
    memory = "peak memory, less the GPU's" if measurement.on_gpu else "peak memory"
    table = _table("resources", "images/s", "at batch", "cold start ms", memory, "bundle")
    for bundle in measurement.bundles:
        best = max(bundle.throughput, key=lambda throughput: throughput.images_per_s)
        table.add_row(
            _name(bundle, measurement),
            f"{best.images_per_s:.0f}",
            str(best.batch) if best.streams == 1 else f"{best.batch} on {best.streams} streams",
            f"{bundle.cold_start_ms:.0f}",
            f"{bundle.peak_memory_mb} MB" if bundle.peak_memory_mb else "not measured",
            _megabytes(bundle.bundle_bytes),
        )
    return table


def stages_table(measurement: Measurement) -> Table | Group:
    """Where the time of one image file goes, p50 in milliseconds; below it that of inference, where a GPU times it."""
    table = _table("stages, p50 ms", *(stage.value for stage in Stage), "sum")
    for bundle in measurement.bundles:
        times = [bundle.stages[stage].summary_ms.p50 for stage in Stage]
        table.add_row(_name(bundle, measurement), *(f"{time:.2f}" for time in (*times, sum(times))))
    if not any(bundle.device_stages for bundle in measurement.bundles):
        return table
    parts = _table("of inference on the GPU, p50 ms", *(part.value for part in DeviceStage))
    for bundle in measurement.bundles:
        found = [bundle.device_stages.get(part) for part in DeviceStage]
        cells = (f"{samples.summary_ms.p50:.3f}" if samples else "not measured" for samples in found)
        parts.add_row(_name(bundle, measurement), *cells)
    return Group(table, parts)


def energy_table(measurement: Measurement) -> Table:
    """What an inference of one image costs on a machine with power sensors, and the mean power meanwhile."""
    table = _table("energy", "an inference", "above idle", "power", "idle")
    for bundle in measurement.bundles:
        cost = bundle.energy
        found = (cost.mj, cost.mj_above_idle, cost.power_mw, cost.idle_mw) if cost else (None,) * 4
        table.add_row(_name(bundle, measurement), *map(_measured, found, ("mJ", "mJ", "mW", "mW")))
    return table


def sensors_table(watched: Watched) -> Table:
    """Power by rail, temperature by zone and the clocks over the whole benchmark."""
    table = _table("sensor", "least", "mean", "most")
    rows = [(name, values, "mW") for name, values in watched.power.values.items()]
    if len(watched.total) > 1:
        rows.append(("all rails", total_power(watched), "mW"))
    rows += [(name, values, "°C") for name, values in watched.heat.values.items()]
    rows += [(name, values, "MHz") for name, values in watched.clocks.values.items()]
    for name, values, unit in rows:
        said = [value for value in values if value is not None]
        found = (min(said), fmean(said), max(said)) if said else (None,) * 3
        table.add_row(name, *(_measured(value, unit) for value in found))
    return table


def sustained_table(measurement: Measurement) -> Table:
    """What became of a load that lasted: medians of its first and its last tenth, and frames without an answer."""
    table = _table("sustained", "p50 ms at first", "at last", "slower", "worst ms", "frames missed")
    for bundle in measurement.bundles:
        if load := bundle.sustained:
            missed = f"{load.missed} of {load.frames} at {load.plan.fps:g} fps" if load.plan.fps else "no camera"
            times = (load.first_ms, load.last_ms, max(window.worst_ms for window in load.windows))
            first, last, worst = (f"{time:.2f}" for time in times)
            table.add_row(_name(bundle, measurement), first, last, f"{load.slowdown - 1:+.1%}", worst, missed)
    if table.row_count > 1:
        table.caption = "one after the other in this order: a later one began on a warmer device"
    return table


def circumstances_sentence(measurement: Measurement) -> str:
    """Where and how it was measured."""
    here, image = measurement.circumstances, measurement.image
    threads = measurement.bundles[0].engine.threads
    engines = dict.fromkeys(str(bundle.engine) for bundle in measurement.bundles)
    placed = {f"{count} operators by {part}" for one in measurement.bundles for part, count in one.engine.nodes.items()}
    where = f" ({', '.join(sorted(placed))})" if placed else ""
    return (
        f"{measurement.machine}, {threads} of {here.cores} cores, {' and '.join(engines)}{where},"
        f" {measurement.bundles[0].latency.summary_ms.count} runs in interleaved rounds;"
        f" stages with a {image.width}×{image.height} image"
    )


def sensitivity_table(found: Sensitivity) -> Table:
    """The layers of a network, the costliest in accuracy first."""
    heads = ("noise\nrounded", "flips", "SQNR\nin float", "time\nin float", "slower in float\n(95 % CI)")
    table = _table("layer", *heads)
    for row in found.layers:
        interval = row.slowdown_interval
        table.add_row(
            row.layer,
            f"{row.noise_share:.1%}",
            str(row.flips),
            f"{row.gain_db:+.2f} dB",
            f"{row.extra_ms:+.2f} ms",
            f"{row.slowdown - 1:+.1%} ({100 * interval.low - 100:+.0f} to {100 * interval.high - 100:+.0f})",
        )
    return table


def sensitivity_sentence(found: Sensitivity) -> str:
    """INT8 as a whole."""
    return (
        f"int8: SQNR {found.sqnr_db:.1f} dB, {found.flips} of {found.images} predictions differ from fp32,"
        f" {found.latency_ms:.2f} ms an image with {found.threads} threads"
    )


def slim_tables(report: SlimReport) -> tuple[Table, Table]:
    """The curve of accuracy against measured latency, from the original on: what is saved, and what it costs."""
    latency = f"{report.precision.value} latency"
    speeds = _table("", latency, "ratio (95 % interval)", "MACs", "weights")
    accuracies = _table("", "untuned", "fp32 top-1", "95 % interval", "change in points")
    first, reference = report.points[0].speed, report.cost
    top1, interval, _ = _accuracy(report.accuracy)
    speeds.add_row("original", f"{first.original_ms:.2f} ms", "1", "1", "1")
    accuracies.add_row("original", "", top1, interval, "")
    for point in report.points:
        name, ratio, (top1, interval, _) = f"slim {point.speedup:g}", point.speed.ratio, _accuracy(point.accuracy)
        speeds.add_row(
            name,
            f"{point.speed.slim_ms:.2f} ms",
            f"{ratio.ratio:.3f} ({ratio.interval:.3f})",
            f"{point.cost.macs / reference.macs:.2f}",
            f"{point.cost.parameters / reference.parameters:.2f}",
        )
        change = f"{point.against_original.top1_change_points:+.2f}"
        accuracies.add_row(name, f"{point.untuned_accuracy.top1:.2%}", top1, interval, change)
    return speeds, accuracies


def predictions_table(rows: Sequence[tuple[str, Sequence[Prediction]]]) -> Table:
    """The best classes of every image."""
    table = _table("image", "class", "probability")
    for name, predictions in rows:
        for i, prediction in enumerate(predictions):
            table.add_row(name if i == 0 else "", prediction.label, f"{prediction.probability:.1%}")
    return table


def devices_table(devices: Sequence[KnownDevice]) -> Table:
    """The known devices; what this machine is has a star. JetPack: those that run bundles, or else NVIDIA's program."""
    table = _wide_table("device (* here)", "", "GPU", "INT8", "DLA cores", "memory", "TensorRT", "JetPack")
    table.columns[1].justify = "left"
    for device in devices:
        tensorrt = list(device.tensorrt.values())
        table.add_row(
            f"{device.name} *" if device.at_hand else device.name,
            device.title,
            ".".join(map(str, device.compute_capability or ())),
            "yes" if device.int8 else "no",
            "/".join(map(str, device.dla_cores)),
            "/".join(map(str, device.memory_gb)) + (" GB" if device.memory_gb else ""),
            "–".join(dict.fromkeys((*tensorrt[:1], *tensorrt[-1:]))),
            _jetpacks(device),
        )
    table.caption = (
        "trtexec: its JetPacks have a Python too old for gnet-edge; NVIDIA's program trtexec, which they have, runs"
        " what gnet-edge package --for deepstream writes"
    )
    return table


def _jetpacks(device: KnownDevice) -> str:
    if not device.jetpacks:
        return "trtexec" if device.tensorrt else ""
    first, last = device.jetpacks[0].partition("–")[0], device.jetpacks[-1].rpartition("–")[2]
    return f"{first}–{last}"


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """What was found."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(finding.state.value, finding.topic, finding.says)
    return table


def facts_table(facts: dict[str, str]) -> Table:
    """Names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def changes_table(changes: Cells) -> Table:
    """What changed since a baseline."""
    table = _wide_table(*changes.head)
    for row in changes.rows:
        table.add_row(row.name, *row.cells)
    return table


def _table(first: str, *others: str) -> Table:
    """Names on the left, which are folded where they are too long, and figures, which stay whole."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _wide_table(first: str, *others: str) -> Table:
    """As `_table`, for more than 80 columns of figures: where a terminal is narrower, all wrap by words."""
    table = _table(first, *others)
    for column in table.columns:
        column.no_wrap = False
    return table


def _accuracy(accuracy: Accuracy) -> tuple[str, str, str]:
    interval = accuracy.top1_interval
    return f"{accuracy.top1:.2%}", f"{interval:.2%}", f"{accuracy.top5:.2%}"


def _agreement(comparison: Comparison) -> tuple[str, str]:
    images = comparison.reference.images
    interval = wilson_interval(round(comparison.agreement * images), images)
    return f"{comparison.agreement:.2%}", f"{interval:.2%}"


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.2f} MB"


def _name(bundle: BundleMeasurement, measurement: Measurement) -> str:
    """As many of its last folders as tell all apart, at least two, and the engine where not all have the same."""
    folders = {Path(other.name).parts for other in measurement.bundles}
    enough = (count for count in itertools.count(2) if len({path[-count:] for path in folders}) == len(folders))
    short = str(Path(*Path(bundle.name).parts[-next(enough) :]))
    engines = {other.engine.backend for other in measurement.bundles}
    return short if len(engines) == 1 else f"{short} ({bundle.engine.backend})"


def _measured(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:.1f} {unit}"
