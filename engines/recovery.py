"""Keeping a budget of accuracy: a lowered graph is judged against FP32, and INT8 leaves in float the layers it must.

Layers are ranked on training images; the validation images choose nothing but how many of them stay float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.calibration.layers import Layer, float_nodes
from googlenet_edge.calibration.table import CalibrationTable
from googlenet_edge.dataset import ImageSet, Progress, load_pixels
from googlenet_edge.engines.accuracy import Accuracy, Comparison, Evaluation, compare
from googlenet_edge.engines.evaluate import evaluate
from googlenet_edge.engines.golden import Golden
from googlenet_edge.engines.lowering import Lowered, lower, open_lowered
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.rewriting import fastest
from googlenet_edge.engines.sensitivity import Probe, rank_layers
from googlenet_edge.errors import AccuracyError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, Precision

T = TypeVar("T")
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Shows a step by its name; what it gives is told (done, total)."""

_GOLDEN_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lowered graph, what it computes, how often it is right, and how that compares with FP32.

    ``float_layers`` names the layers that were left in float; ``against_fp32`` is missing where it is FP32 itself.
    """

    lowered: Lowered
    float_layers: tuple[str, ...]
    golden: Golden
    accuracy: Accuracy
    against_fp32: Comparison | None


@dataclass(frozen=True)
class Judge:
    """Lowers a graph and finds on ``images`` what that costs. ``table`` is for INT8."""

    graph: InferenceGraph
    table: CalibrationTable | None
    device: Device
    precision: Precision
    images: ImageSet
    threads: int
    bars: Bars

    def candidate(self, in_float: Sequence[Layer] = ()) -> Candidate:
        """The graph lowered, but for some layers. Raises `EdgeError` of what failed."""
        lowered = self._lowered(in_float)
        with self._open(lowered) as predictor:
            pixels = first_pixels(self.images, self.graph.preprocess, _GOLDEN_IMAGES)
            golden = Golden(pixels, predictor.run(pixels))
            found = self._evaluated(predictor, self.precision)
        against_fp32 = None if self.precision is Precision.FP32 else compare(self._fp32, found)
        return Candidate(lowered, tuple(layer.name for layer in in_float), golden, found.accuracy, against_fp32)

    def _lowered(self, in_float: Sequence[Layer]) -> Lowered:
        """For the device; a quantized graph for a processor with the rewrites that pay on this one."""
        with self.bars("lowering"):
            nodes = float_nodes(in_float)
            lowered = lower(
                self.graph, device=self.device, precision=self.precision, table=self.table, float_nodes=nodes
            )
        if (self.device, self.precision) != (Device.CPU, Precision.INT8):
            return lowered
        with self.bars("trying rewrites") as progress:
            return fastest(lowered, lambda each: self._open(each).engine, progress=progress)

    @cached_property
    def _fp32(self) -> Evaluation:
        fp32 = lower(self.graph, device=self.device, precision=Precision.FP32, table=None)
        with self._open(fp32) as predictor:
            return self._evaluated(predictor, Precision.FP32)

    def _evaluated(self, predictor: Predictor, precision: Precision) -> Evaluation:
        with self.bars(f"evaluating {precision.value}") as progress:
            return evaluate(predictor, self.images, progress=progress)

    def _open(self, lowered: Lowered) -> Predictor:
        return open_lowered(self.graph, lowered, device=self.device, threads=self.threads)


def within_budget(judge: Judge, *, max_drop_points: float, held_out: Callable[[], ImageSet]) -> Candidate:
    """The graph lowered whole where that loses little enough, else INT8 with the fewest layers in float that does.

    At most half of the layers stay float.

    Args:
        max_drop_points: the largest loss of top-1 against FP32, in percentage points.
        held_out: gives the images to rank the layers on; asked where the whole graph loses too much.

    Raises:
        AccuracyError: no candidate loses little enough.
        EdgeError: of what failed.
    """

    def allowed(candidate: Candidate) -> bool:
        found = candidate.against_fp32
        return found is None or -found.top1_change_points <= max_drop_points

    tried = [judge.candidate()]
    if allowed(tried[0]):
        return tried[0]
    if judge.table is not None:
        probe = Probe.of(judge.graph, held_out(), threads=judge.threads)
        with judge.bars("ranking layers") as progress:
            ranked = rank_layers(probe, judge.table, progress=progress)
        worst = [each.layer for each in ranked[: len(ranked) // 2]]

        def attempt(count: int) -> Candidate | None:
            tried.append(judge.candidate(worst[:count]))
            return tried[-1] if allowed(tried[-1]) else None

        if found := fewest(attempt, len(worst)):
            return found
    raise AccuracyError(_too_lossy(judge.precision, max_drop_points, tried))


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


def first_pixels(images: ImageSet, preprocess: Preprocess, count: int) -> NDArray[np.uint8]:
    """uint8 ``(count, crop, crop, 3)``, or fewer where there are fewer images. Raises `DamagedImageError`."""
    return np.stack(list(load_pixels(images.take(list(range(min(count, len(images))))), preprocess)))


def _too_lossy(precision: Precision, max_drop_points: float, tried: Sequence[Candidate]) -> str:
    """One sentence on the whole graph and on the last candidate, which had the most layers in float."""
    found, last = tried[0].against_fp32, tried[-1]
    assert found is not None and last.against_fp32 is not None  # FP32 loses nothing against itself
    low, high = found.top1_change_interval.low, found.top1_change_interval.high
    chance = "" if found.differs else f", not told from chance on {found.reference.images} images"
    count = len(last.float_layers)
    worst = "the worst layer" if count == 1 else f"the worst {count} layers"
    still = f" with {worst} in float it is {last.against_fp32.top1_change_points:+.2f};" if count else ""
    return (
        f"{precision.value} changes top-1 by {found.top1_change_points:+.2f} points (95 % interval"
        f" {low:+.2f}…{high:+.2f}{chance}), at most -{max_drop_points:g} is allowed;"
        f"{still} no bundle was written."
        " Calibrate on more images or with another --method, or allow more with --max-drop"
    )
