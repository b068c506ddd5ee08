"""How to quantize a graph, by trial: what counts is the noise that is left in the logits of images.

First whether channels are rescaled, then whether weights are rounded together, whether biases are corrected, and the
range method; each stands on what was taken before it, and must win clearly over doing without. Rescaling is tried with
weights that are rounded together and biases that are corrected, since it is they that pay for it. All are judged with
8-bit weights and exact sums, so that the choice is the same on every machine.

Held-out images judge. Range methods may clip, which hurts few images, but those badly: where the held-out ones have
none of them, what clips looks better than it is. So the images that reach furthest judge methods, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from googlenet_edge.calibration.extremes import ChannelExtremes
from googlenet_edge.calibration.lower import quantized
from googlenet_edge.calibration.pixels import PIXELS
from googlenet_edge.calibration.ranges import HEADROOM_LEAD_DB, RangeMethod, Ranges, range_of_pixels, with_headroom
from googlenet_edge.calibration.rescale import (
    Factors,
    rescale_factors,
    rescaled,
    rescaled_extremes,
    rescaled_moments,
)
from googlenet_edge.calibration.rounding import Means, Steps, compensated, rounding_steps, window_means
from googlenet_edge.calibration.session import open_session, side_by_side
from googlenet_edge.calibration.table import CalibrationTable, Trial
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.calibration.windows import Moments, Windows
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph
from googlenet_edge.statistics import mean_sqnr_db, noise_shares

STRENGTH = 0.75  # of rescaling; at 1, channels that images seldom reach are clipped
FEWEST_FOR_METHODS = 8
"""Held-out images. What fewer say of range methods is chance; of the rest three say enough, by hand on two networks."""
CLEARLY_DB = 0.1

Done = Callable[[], None]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Rare:
    """The images that reach furthest. They stand for themselves, the held-out ones for all others.

    Attributes:
        images: uint8 ``(1, crop, crop, 3)`` each.
        exact: their logits without any rounding, float32 ``(images, classes)``.
        share: the part of all images that they stand for.
        held_out: which of the held-out images are among them, and stand for nothing else.
    """

    images: Sequence[Pixels]
    exact: NDArray[np.float32]
    share: float
    held_out: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """What is done to a graph before it is quantized: its channels times factors, other codes than the nearest, biases.

    ``graph``, ``extremes`` and ``moments`` are those of the rescaled channels. What is empty is not done.
    """

    graph: InferenceGraph
    extremes: Mapping[str, ChannelExtremes]
    moments: Mapping[Windows, Moments]
    factors: Factors = field(default_factory=dict)
    steps: Steps = field(default_factory=dict)
    means: Means = field(default_factory=dict)

    @property
    def ranges(self) -> dict[str, Ranges]:
        """By `RangeMethod.HEADROOM`, for the u8 grid: ``amax`` is of no use here."""
        found = {name: channels.ranges for name, channels in self.extremes.items()}
        found = {name: with_headroom(each) for name, each in found.items()}
        return found | {INPUT: range_of_pixels(self.graph.preprocess)}

    def rounded(self, weight_range: WeightRange) -> Steps:
        """The steps of weights that are rounded together."""
        return rounding_steps(self.graph, self.ranges, self.moments, weight_range)


def runs_of(held_out: int, rare: int) -> int:
    """How many runs of images there are, the rare ones' exact ones among them: what was tried is not run again."""
    methods = len(RangeMethod) if held_out >= FEWEST_FOR_METHODS else 0
    return (2 + 1 + 1) * held_out + methods * (held_out + rare) + rare


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    preparation: Preparation
    score: float


@dataclass
class Trials:
    """The trials of one graph on held-out ``images``, uint8 ``(1, crop, crop, 3)``.

    ``exact`` are their logits without any rounding, float32 ``(images, classes)``; ``done`` is told of each run.
    """

    images: Sequence[Pixels]
    exact: NDArray[np.float32]
    done: Done
    tried: list[Trial] = field(default_factory=list)

    def preparation(
        self, graph: InferenceGraph, extremes: Mapping[str, ChannelExtremes], moments: Mapping[Windows, Moments]
    ) -> Preparation:
        """Of each step the best, and nothing that does not help. Ranges have headroom here.

        Args:
            extremes: what the images reach that were not held out.
            moments: of all windows of the graph.
        """
        plain = Preparation(graph, extremes, moments)
        known = self._better({"no rescale": _rounded(plain), "rescale": _rounded(_rescaled(plain))})
        found = known.preparation
        known = self._better({"nearest codes": replace(found, steps={}), "rounded together": found}, known)
        found = known.preparation
        known = self._better({"no bias correction": replace(found, means={}), "bias correction": found}, known)
        return known.preparation

    def method(self, preparation: Preparation, table: CalibrationTable, rare: Rare) -> CalibrationTable:
        """The table, which has headroom, by the best range method; as it is where few images are held out.

        Its ranges may be of all images, the held-out ones among them. The score is the mean of noise over signal, in
        dB, in which the rare images count for their share.

        Where no held-out image needed the headroom, ranges without it score better by what it costs. That says nothing
        of the next thousand images, so they must win by `HEADROOM_LEAD_DB`, twice as much.
        """

        if len(self.images) < FEWEST_FOR_METHODS:
            return table

        def opened(method: RangeMethod) -> tuple[CalibrationTable, onnxruntime.InferenceSession]:
            found = table.with_method(method)
            return found, _session(preparation, found.ranges)

        tables, scores = dict[str, CalibrationTable](), dict[str, float]()
        for found, session in side_by_side(opened, RangeMethod):  # others are made ready while one runs
            name = found.method.value
            tables[name], scores[name] = found, self._score_with(rare, session)
        return tables[self._taken(scores, clearly=HEADROOM_LEAD_DB)]

    def _better(self, ways: Mapping[str, Preparation], known: _Tried | None = None) -> _Tried:
        """The one taken of two ways. Either may be what is ``known``, which is not run again."""
        tried = {
            name: known if known and way is known.preparation else _Tried(way, self._score(_session(way, way.ranges)))
            for name, way in ways.items()
        }
        return tried[self._taken({name: each.score for name, each in tried.items()})]

    def _taken(self, scores: dict[str, float], *, clearly: float = CLEARLY_DB) -> str:
        """The highest score, or the first where nothing is ``clearly`` above it."""
        plain = next(iter(scores))
        best = max(scores, key=lambda name: scores[name])
        taken = best if scores[best] > scores[plain] + clearly else plain
        self.tried += [Trial(name, round(score, 2), name == taken) for name, score in scores.items()]
        return taken

    def _score(self, session: onnxruntime.InferenceSession) -> float:
        return mean_sqnr_db(self.exact, self._logits(session, self.images))

    def _score_with(self, rare: Rare, session: onnxruntime.InferenceSession) -> float:
        usual = [i not in rare.held_out for i in range(len(self.images))]
        of_usual = noise_shares(self.exact, self._logits(session, self.images))[usual].mean()
        of_rare = noise_shares(rare.exact, self._logits(session, rare.images)).mean()
        return float(-10 * np.log10((1 - rare.share) * of_usual + rare.share * of_rare))

    def _logits(self, session: onnxruntime.InferenceSession, images: Sequence[Pixels]) -> NDArray[np.float32]:
        def logits(pixels: Pixels) -> NDArray[np.float32]:
            found: NDArray[np.float32] = session.run([OUTPUT], {PIXELS: pixels})[0]
            return found

        rows = []
        for row in side_by_side(logits, images):
            rows.append(row)
            self.done()
        return np.concatenate(rows)


def _session(preparation: Preparation, ranges: Mapping[str, Ranges]) -> onnxruntime.InferenceSession:
    """What is prepared, quantized with these ranges."""
    ready = compensated(preparation.graph, ranges, steps=preparation.steps, means=preparation.means)
    return open_session(quantized(ready, ranges), threads=1)


def _rescaled(plain: Preparation) -> Preparation:
    factors = rescale_factors(plain.graph, plain.extremes, strength=STRENGTH)
    return Preparation(
        rescaled(plain.graph, factors),
        rescaled_extremes(plain.graph, plain.extremes, factors),
        rescaled_moments(plain.graph, plain.moments, factors),
        factors,
    )


def _rounded(preparation: Preparation) -> Preparation:
    """With weights rounded together and biases corrected."""
    means = window_means(preparation.graph, preparation.moments)
    return replace(preparation, steps=preparation.rounded(WeightRange.FULL), means=means)
