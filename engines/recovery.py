"""Keeping a budget of accuracy: a lowered graph is judged against FP32, and INT8 leaves in float the layers it must.

Layers are ranked on training images; the validation images choose nothing but how many of them stay float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.placement import Layer, float_nodes
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.dataset import Bars, ImageSet, load_pixels
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.bundle import EngineTrial, Golden, Verdict
from googlenet_edge.engines.evaluate import evaluate
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.protocol import EngineOptions
from googlenet_edge.engines.registry import Backend, default_to_build_with
from googlenet_edge.engines.sensitivity import Probe, rank_layers
from googlenet_edge.engines.trials import Candidate, choose, fastest, time_engines
from googlenet_edge.errors import AccuracyError, EngineError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineName, Precision, Unit

T = TypeVar("T")

_GOLDEN_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Judged:
    """A lowered graph on the engine that is taken: what it computes, how often it is right, and against FP32.

    ``float_layers`` names the layers that were left in float; ``against_fp32`` is missing where it is FP32 itself.
    ``trials`` and ``notes`` tell of the engines, where there was a choice.
    """

    lowered: Lowered
    engine: EngineName
    float_layers: tuple[str, ...]
    golden: Golden
    accuracy: Accuracy
    against_fp32: Comparison | None
    trials: tuple[EngineTrial, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judge:
    """Lowers a graph, tries ``backends`` where there are several, and finds on ``images`` what that costs.

    ``table`` is for INT8. ``threads`` evaluate, ``timed_threads`` are what trials of speed run with.
    """

    graph: InferenceGraph
    table: CalibrationTable | None
    device: Device
    precision: Precision
    images: ImageSet
    backends: Sequence[Backend]
    bars: Bars
    threads: int
    timed_threads: int
    max_drop_points: float
    unit: Unit = Unit.MAIN

    def judged(self, in_float: Sequence[Layer] = ()) -> Judged:
        """The graph lowered, but for some layers. Raises `EdgeError` of what failed."""
        with self.bars("lowering"):
            plain = lower(
                self.graph,
                device=self.device,
                precision=self.precision,
                table=self.table,
                float_nodes=float_nodes(in_float),
                unit=self.unit,
            )
        backends, notes = self._usable(plain)
        ways = [(backend, self._rewritten(plain, backend)) for backend in backends]
        answers = [self._answer(*way) for way in ways]
        against_fp32 = [compare(self._fp32(answers[0][1]), evaluation) for _, evaluation in answers]
        trials = self._trials(ways, against_fp32) if len(self.backends) > 1 else ()
        taken = next((i for i, trial in enumerate(trials) if trial.verdict is Verdict.TAKEN), 0)
        (backend, lowered), (golden, evaluation) = ways[taken], answers[taken]
        return Judged(
            lowered=lowered,
            engine=backend.name,
            float_layers=tuple(layer.name for layer in in_float),
            golden=golden,
            accuracy=evaluation.accuracy,
            against_fp32=None if self.precision is Precision.FP32 else against_fp32[taken],
            trials=trials,
            notes=notes,
        )

    def allows(self, judged: Judged) -> bool:
        """Whether it loses little enough."""
        found = judged.against_fp32
        return found is None or -found.top1_change_points <= self.max_drop_points

    def _usable(self, lowered: Lowered) -> tuple[list[Backend], tuple[str, ...]]:
        """The backends that open a model, and a sentence for each that does not. Raises `EngineError` if none does."""
        problems = {backend: _refusal(backend, lowered, self._timed_options(lowered)) for backend in self.backends}
        usable = [backend for backend, problem in problems.items() if problem is None]
        refused = [problem for problem in problems.values() if problem is not None]
        if not usable:
            raise refused[0]
        return usable, tuple(f"not tried: {problem}" for problem in refused)

    def _rewritten(self, lowered: Lowered, backend: Backend) -> Lowered:
        """A quantized graph for a processor with the rewrites that pay on this one."""
        if (self.device, self.precision) != (Device.CPU, Precision.INT8):
            return lowered
        with self.bars(f"trying rewrites on {backend.name.value}") as progress:
            options = self._timed_options(lowered)
            return fastest(
                lowered, lambda each: backend.open(each.model, options), engine=backend.name, progress=progress
            )

    def _answer(self, backend: Backend, lowered: Lowered) -> tuple[Golden, Evaluation]:
        with open_lowered(self.graph, lowered, backend=backend, streams=self.threads) as predictor:
            pixels = first_pixels(self.images, self.graph.preprocess, _GOLDEN_IMAGES)
            golden = Golden(pixels, predictor.run(pixels))
            with self.bars(f"evaluating {self.precision.value} on {backend.name.value}") as progress:
                return golden, evaluate(predictor, self.images, progress=progress)

    def _fp32(self, own: Evaluation) -> Evaluation:
        """What FP32 answers on the default engine; ``own`` where that is what is judged."""
        return own if self.precision is Precision.FP32 else self._reference

    @cached_property
    def _reference(self) -> Evaluation:
        backend = default_to_build_with(self.device)
        return evaluated(self.graph, self.images, backend=backend, bars=self.bars, streams=self.threads)

    def _trials(
        self, ways: Sequence[tuple[Backend, Lowered]], against_fp32: Sequence[Comparison]
    ) -> tuple[EngineTrial, ...]:
        candidates = [Candidate(backend, lowered.model) for backend, lowered in ways]
        pixels, options = first_pixels(self.images, self.graph.preprocess, 1), self._timed_options(ways[0][1])
        with self.bars("timing engines") as progress:
            timed = time_engines(candidates, options=options, pixels=pixels, progress=progress)
        return choose(timed, against_fp32, max_drop_points=self.max_drop_points)

    def _timed_options(self, lowered: Lowered) -> EngineOptions:
        return EngineOptions(
            self.timed_threads, weight_bits=lowered.weight_bits, calibration_cache=lowered.calibration_cache
        )


def evaluated(
    graph: InferenceGraph,
    images: ImageSet,
    *,
    backend: Backend,
    bars: Bars,
    precision: Precision = Precision.FP32,
    table: CalibrationTable | None = None,
    name: str = "",
    threads: int = 1,
    streams: int = 1,
) -> Evaluation:
    """What a graph answers when it is lowered for the backend's device, for a simulation this one, and run.

    Raises as `lower`, `open_lowered` and `evaluate` do.
    """
    lowered = lower(graph, device=backend.device, precision=precision, table=table)
    opened = open_lowered(graph, lowered, backend=backend, threads=threads, streams=streams)
    with opened as predictor, bars(f"evaluating {name or precision.value}") as progress:
        return evaluate(predictor, images, progress=progress)


def within_budget(judge: Judge, *, held_out: Callable[[], ImageSet]) -> Judged:
    """The graph lowered whole where that loses little enough, else INT8 with the fewest layers in float that does.

    At most half of the layers stay float. They are ranked by what the u8 grids of a processor cost in each, for other
    devices, too.

    Args:
        held_out: gives the images to rank the layers on; asked where the whole graph loses too much.

    Raises:
        AccuracyError: no candidate loses little enough.
        EdgeError: of what failed.
    """

    tried = [judge.judged()]
    if judge.allows(tried[0]):
        return tried[0]
    if judge.table is not None:
        probe = Probe.of(judge.graph, held_out(), threads=judge.threads)
        with judge.bars("ranking layers") as progress:
            ranked = rank_layers(probe, judge.table, progress=progress)
        worst = [each.layer for each in ranked[: len(ranked) // 2]]

        def attempt(count: int) -> Judged | None:
            tried.append(judge.judged(worst[:count]))
            return tried[-1] if judge.allows(tried[-1]) else None

        if found := fewest(attempt, len(worst)):
            return found
    raise AccuracyError(_too_lossy(judge.precision, judge.max_drop_points, tried))


def fewest(attempt: Callable[[int], T | None], most: int) -> T | None:
    """What ``attempt`` gives for the smallest count of 1…``most`` for which it gives something; else nothing.

    Doubles the count until there is something, then halves the gap: few attempts where few layers do. It takes for
    granted that more layers are never worse; where that does not hold, the count may not be the smallest.
    """
    too_few, count = 0, 1
    while (found := attempt(count)) is None:
        if count == most:
            return None
        too_few, count = count, min(2 * count, most)
    while count - too_few > 1:
        middle = (too_few + count) // 2
        if (better := attempt(middle)) is None:
            too_few = middle
        else:
            count, found = middle, better
    return found


def _refusal(backend: Backend, lowered: Lowered, options: EngineOptions) -> EngineError | None:
    """Why a backend does not open a model, if so."""
    try:
        backend.open(lowered.model, options).close()
    except EngineError as problem:
        return problem
    return None


def first_pixels(images: ImageSet, preprocess: Preprocess, count: int) -> NDArray[np.uint8]:
    """uint8 ``(count, crop, crop, 3)``, or fewer where there are fewer images. Raises `DamagedImageError`."""
    return np.stack(list(load_pixels(images.take(range(min(count, len(images)))), preprocess)))


def _too_lossy(precision: Precision, max_drop_points: float, tried: Sequence[Judged]) -> str:
    """One sentence on the whole graph and on the last candidate, which had the most layers in float."""
    found, last = tried[0].against_fp32, tried[-1]
    assert found is not None and last.against_fp32 is not None  # FP32 loses nothing against itself
    count = len(last.float_layers)
    worst = "the worst layer" if count == 1 else f"the worst {count} layers"
    still = f" with {worst} in float it is {last.against_fp32.top1_change_points:+.2f};" if count else ""
    return (
        f"{precision.value} on {found.reference.images} images: {found}; at most -{max_drop_points:g} points are"
        f" allowed;{still} no bundle was written."
        f" {'Calibrate on more images or with another --method, or allow' if precision is Precision.INT8 else 'Allow'}"
        " more with --max-drop"
    )
