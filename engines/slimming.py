"""From a checkpoint to slimmer ones that are as much faster as was asked for, measured, and nearly as often right."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from googlenet_edge.checkpoint import (
    Checkpoint,
    build_model,
    read_checkpoint,
    write_checkpoint,
)
from googlenet_edge.dataset import Bars, WhenDamaged, refuse_damaged, stratified_sample
from googlenet_edge.distil import DistilConfig, as_trained, distil
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.checkpoint_source import images_for
from googlenet_edge.engines.circumstances import Circumstances, read_circumstances
from googlenet_edge.engines.recovery import evaluated
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.engines.stopwatch import Speed, Stopwatch, Target
from googlenet_edge.engines.timing import Ratio
from googlenet_edge.errors import ConfigError
from googlenet_edge.export import Cost, export, inference_cost
from googlenet_edge.files import check_writable, real_path, write_json
from googlenet_edge.reports import Observer
from googlenet_edge.slim import (
    STEP,
    Removal,
    convolution_widths,
    importance_on,
    kept_after,
    order_of_removal,
    slimmed,
)
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision
from googlenet_edge.training_loop import TrainingData
from googlenet_edge.workspace import (
    CHECKPOINT_FILE,
    SLIM_FILE,
    RunRecord,
    refuse_another_s_run,
    refuse_inside_bundle,
    slim_folder,
    write_run_record,
)

IMPORTANCE_IMAGES = 512
TOLERANCE = 0.01
_VAGUE = 0.1
_SEARCHES = 3

Watch = Callable[[], AbstractContextManager[Observer]]


@dataclass(frozen=True, slots=True)
class SlimRequest:
    """Which checkpoint to slim, for what, and how it is fine-tuned.

    For each of ``speedups``, all above 1, a folder is made in ``out``. ``seed`` splits ``data``, where it is one
    folder. ``streams`` images are evaluated at the same time; ``workers`` processes load images for the training.
    """

    checkpoint: Path
    out: Path
    data: Path
    speedups: tuple[float, ...]
    target: Target
    config: DistilConfig = field(default_factory=DistilConfig)
    seed: int = 0
    when_damaged: WhenDamaged = refuse_damaged
    streams: int = 1
    workers: int = 2


@dataclass(frozen=True, slots=True)
class SlimPoint:
    """A slimmed network: the ``speedup`` that was asked for, and what was measured of it.

    ``speed`` is that of the target. Accuracy is that of FP32 on the validation images, and its comparison is with the
    network that was slimmed; ``untuned`` is before fine-tuning. ``doubt`` says what is wrong with the measurement.
    """

    speedup: float
    checkpoint: str
    speed: Speed
    cost: Cost
    untuned_accuracy: Accuracy
    untuned: Comparison
    accuracy: Accuracy
    against_original: Comparison
    doubt: str | None


@dataclass(frozen=True, slots=True)
class SlimReport:
    """The curve of accuracy against latency: the network that was slimmed, and a point for each speed-up."""

    checkpoint: str
    precision: Precision
    engine: EngineName
    threads: int
    accuracy: Accuracy
    cost: Cost
    points: tuple[SlimPoint, ...]
    circumstances: Circumstances


def slim(
    request: SlimRequest, *, watch: Watch, bars: Bars, clock: Callable[[], float] = time.perf_counter
) -> SlimReport:
    """Slims a checkpoint for each speed-up, fine-tunes the results with the original as teacher, and writes them.

    The curve is written after each point, so that what is finished is kept.

    Args:
        watch: shows a fine-tuning; asked to stop, that network is not kept.

    Raises:
        EdgeError: of the step that failed.
        ConfigError: a speed-up is out of reach; nothing is written then.
    """
    _check_possible(request)
    checkpoint = read_checkpoint(request.checkpoint)
    request = replace(request, config=as_trained(request.config, checkpoint.info))
    data = images_for(checkpoint, request.data, seed=request.seed, when_damaged=request.when_damaged, bars=bars)
    circumstances = read_circumstances()
    stopwatch = Stopwatch(checkpoint, request.target, data.train, clock=clock)
    _check_reach(request, checkpoint, stopwatch)
    forms = _forms(checkpoint, data, stopwatch, bars)
    slim = [forms.slim(_search(forms, speedup, bars)) for speedup in request.speedups]
    workshop = _Workshop(request, checkpoint, data, stopwatch, watch, bars)
    reference, points = workshop.evaluation(checkpoint, "the original"), []
    for speedup, each in zip(request.speedups, slim, strict=True):
        points.append(workshop.point(speedup, each, reference))
        report = _report(request, checkpoint, circumstances, reference, points)
        write_json(request.out / SLIM_FILE, report)
    return report


def doubt(speedup: float, found: Ratio) -> str | None:
    """What is wrong with a measured ratio where a speed-up was asked for, and what to do about it."""
    within, wanted = found.interval, 1 / speedup
    if within.low > wanted:
        return (
            f"slim {speedup:g} takes {found.ratio:.3f} of the time (95 % interval {within:.3f}) and not"
            f" {wanted:.3f}; slim again while nothing else runs here, or ask for a little more"
        )
    if within.high - within.low > _VAGUE * found.ratio:
        return (
            f"slim {speedup:g} takes {within:.3f} of the time, which is vague; measure again while nothing"
            " else runs here: gnet-edge build it, then gnet-edge bench it beside the original"
        )
    return None


def removals_for(wanted: float, ratio: Callable[[int], float], confirm: Callable[[int], Interval], *, most: int) -> int:
    """`fewest_removals`, looked at more closely; where that shows that noise misled the search, it is made again.

    Args:
        confirm: the interval of the ratio with so many removals.
    """
    too_few, enough, count = 0, most, most
    for _ in range(_SEARCHES):
        count = fewest_removals(wanted, ratio, too_few=too_few, enough=enough)
        found = confirm(count)
        if found.low > wanted:
            too_few, enough = count, most
        elif found.high < wanted * (1 - 3 * TOLERANCE):
            too_few, enough = 0, count
        else:
            break
    return count


def fewest_removals(wanted: float, ratio: Callable[[int], float], *, too_few: int, enough: int) -> int:
    """A count of removals with which a network takes ``wanted`` of its time, or up to 1 % less: by halving the gap.

    Args:
        ratio: of the time with so many removals to that without; it falls with the count, but for noise.
    """
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        found = ratio(middle)
        if found > wanted:
            too_few = middle
        else:
            enough = middle
            if found >= wanted * (1 - TOLERANCE):
                break
    return enough


@dataclass(frozen=True, slots=True)
class _Forms:
    """All slimmed forms of a checkpoint, by the number of groups of channels that are removed."""

    checkpoint: Checkpoint
    order: Sequence[Removal]
    stopwatch: Stopwatch

    def slim(self, removals: int) -> Checkpoint:
        widths = convolution_widths(self.checkpoint.info.widths)
        return slimmed(self.checkpoint, kept_after(self.order[:removals], widths))

    def ratio(self, removals: int) -> float:
        return self.stopwatch.fastest_ratio(self.slim(removals))

    def interval(self, removals: int) -> Interval:
        return self.stopwatch.speed(self.slim(removals)).ratio.interval


def _check_reach(request: SlimRequest, checkpoint: Checkpoint, stopwatch: Stopwatch) -> None:
    """Raises `ConfigError` where the slimmest form of a checkpoint is not as fast as is asked for."""
    widths = convolution_widths(checkpoint.info.widths)
    slimmest = {name: range(min(STEP, width)) for name, width in widths.items()}
    if max(widths.values()) <= STEP:
        raise ConfigError(f"no convolution has more than {STEP} channels; there is nothing to remove")
    target, wanted = request.target, max(request.speedups)
    reached = 1 / stopwatch.fastest_ratio(slimmed(checkpoint, slimmest))
    if reached < wanted:
        threads = "1 thread" if target.threads == 1 else f"{target.threads} threads"
        raise ConfigError(
            f"a speed-up of {wanted:g} would empty layers: with the last {STEP} channels in each,"
            f" {target.precision.value} on {threads} is {reached:.1f} times as fast here; ask for less with --speedup"
        )


def _forms(checkpoint: Checkpoint, data: TrainingData, stopwatch: Stopwatch, bars: Bars) -> _Forms:
    sample = stratified_sample(data.train, IMPORTANCE_IMAGES, seed=0)
    with bars("weighing channels") as progress:
        importance = importance_on(checkpoint, sample, progress=progress)
    with bars("timing stages") as progress:
        model = stopwatch.latency_model(importance, progress=progress)
    return _Forms(checkpoint, order_of_removal(importance, model), stopwatch)


def _search(forms: _Forms, speedup: float, bars: Bars) -> int:
    """How many removals give the speed-up."""
    most, done = len(forms.order), 0
    with bars(f"searching for {speedup:g} times the speed") as progress:

        def ratio(removals: int) -> float:
            nonlocal done
            done += 1
            progress(done, max(done, most.bit_length()))
            return forms.ratio(removals)

        return removals_for(1 / speedup, ratio, forms.interval, most=most)


@dataclass(frozen=True)
class _Workshop:
    """Fine-tunes slimmed forms of a checkpoint, and measures what became of them."""

    request: SlimRequest
    checkpoint: Checkpoint
    data: TrainingData
    stopwatch: Stopwatch
    watch: Watch
    bars: Bars

    def point(self, speedup: float, slim: Checkpoint, reference: Evaluation) -> SlimPoint:
        """Fine-tunes, measures and writes one."""
        name = f"{speedup:g} times the speed"
        untuned = self.evaluation(slim, f"{name}, untuned")
        started = time.monotonic()
        tuned = self._finetuned(slim)
        seconds = time.monotonic() - started
        after = self.evaluation(tuned, name)
        top = after.accuracy.top1, after.accuracy.top5
        record = self.data.record(self.request.config, top, seconds)
        tuned = replace(tuned, info=replace(tuned.info, training=record))
        speed = self.stopwatch.speed(tuned)
        folder = slim_folder(self.request.out, speedup)
        write_run_record(folder, RunRecord(str(real_path(self.request.data)), self.request.seed))
        write_checkpoint(folder / CHECKPOINT_FILE, tuned)
        return SlimPoint(
            speedup=speedup,
            checkpoint=str(folder / CHECKPOINT_FILE),
            speed=speed,
            cost=_cost(tuned),
            untuned_accuracy=untuned.accuracy,
            untuned=compare(reference, untuned),
            accuracy=after.accuracy,
            against_original=compare(reference, after),
            doubt=doubt(speedup, speed.ratio),
        )

    def evaluation(self, checkpoint: Checkpoint, name: str) -> Evaluation:
        """What a network says in FP32 about the validation images."""
        backend, streams = backend_for(Device.CPU), self.request.streams
        return evaluated(export(checkpoint), self.data.val, backend=backend, bars=self.bars, name=name, streams=streams)

    def _finetuned(self, slim: Checkpoint) -> Checkpoint:
        """The same widths, with weights that follow the original; auxiliary heads stay as they are."""
        student, teacher = build_model(slim), build_model(self.checkpoint)
        with self.watch() as observer:
            distil(student, teacher, self.data, self.request.config, observer=observer, workers=self.request.workers)
        state = {name: tensor.cpu().contiguous() for name, tensor in student.state_dict().items()}
        return Checkpoint(slim.info, {name: state[name] for name in slim.weights})


def _check_possible(request: SlimRequest) -> None:
    """Refuses what makes no sense, what cannot be run and what cannot be written, before any work."""
    request.target.backend.load()
    for speedup in request.speedups:
        if not (math.isfinite(speedup) and speedup > 1):
            raise ConfigError(f"a speed-up of {speedup:g} makes nothing faster; give --speedup above 1, such as 1.5")
        path = slim_folder(request.out, speedup) / CHECKPOINT_FILE
        refuse_inside_bundle(path)
        refuse_another_s_run(path.parent)
        if path.exists() and path.samefile(request.checkpoint):
            raise ConfigError(f"{path} is the checkpoint to slim, which is kept; give another --out")
        check_writable(path)


def _report(
    request: SlimRequest,
    checkpoint: Checkpoint,
    circumstances: Circumstances,
    reference: Evaluation,
    points: Sequence[SlimPoint],
) -> SlimReport:
    target = request.target
    return SlimReport(
        checkpoint=str(request.checkpoint),
        precision=target.precision,
        engine=target.backend.name,
        threads=target.threads,
        accuracy=reference.accuracy,
        cost=_cost(checkpoint),
        points=tuple(points),
        circumstances=circumstances,
    )


def _cost(checkpoint: Checkpoint) -> Cost:
    return inference_cost(build_model(checkpoint), checkpoint.info.preprocess.crop)
