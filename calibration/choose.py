"""How to quantize a graph, by trial: what counts is the noise that is left in the logits of held-out images.

First how far channels are rescaled, then whether weights are rounded together, whether biases are corrected, and the
range method; each stands on what was taken before it, and must win clearly over doing without. How far to rescale is
tried with weights rounded together, since it is they that pay for it. All are judged with 8-bit weights and exact sums,
so that the choice is the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.compensate import Means, compensated, window_means
from googlenet_edge.calibration.lower import quantized
from googlenet_edge.calibration.ranges import HEADROOM, RangeMethod, Ranges, with_headroom
from googlenet_edge.calibration.rescale import (
    ChannelExtremes,
    Factors,
    rescale_factors,
    rescaled,
    rescaled_extremes,
    rescaled_moments,
)
from googlenet_edge.calibration.rounding import Steps, rounding_steps
from googlenet_edge.calibration.session import open_session, side_by_side
from googlenet_edge.calibration.table import CalibrationTable, Trial
from googlenet_edge.calibration.weights import WeightRange
from googlenet_edge.calibration.windows import Moments, Windows
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph
from googlenet_edge.statistics import mean_sqnr_db

STRENGTHS = (0.25, 0.5, 0.75)  # at 1, channels that images seldom reach are clipped
CLEARLY_DB = 0.1
_HEADROOM_DB = 20 * math.log10(1 + HEADROOM)

Done = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """What is done to a graph before it is quantized: its channels times factors, other codes than the nearest, biases.

    ``extremes`` are those of the rescaled channels. What is empty is not done.
    """

    extremes: Mapping[str, ChannelExtremes]
    factors: Factors = field(default_factory=dict)
    steps: Steps = field(default_factory=dict)
    means: Means = field(default_factory=dict)

    @property
    def ranges(self) -> dict[str, Ranges]:
        """By `RangeMethod.HEADROOM`, for the u8 grid: ``amax`` is of no use here."""
        found = {name: channels.ranges for name, channels in self.extremes.items()}
        return {name: each if name == INPUT else with_headroom(each) for name, each in found.items()}

    def rescaled(self, graph: InferenceGraph) -> InferenceGraph:
        """The graph with rescaled channels."""
        return rescaled(graph, self.factors) if self.factors else graph


@dataclass
class Trials:
    """The trials of one graph on held-out ``images``, uint8 ``(1, crop, crop, 3)``; ``done`` is told of each run."""

    graph: InferenceGraph
    images: Sequence[NDArray[np.uint8]]
    done: Done
    tried: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._exact = self._logits(self.graph.model)
        self._known: dict[Preparation, float] = {}

    def preparation(self, extremes: Mapping[str, ChannelExtremes], moments: Mapping[Windows, Moments]) -> Preparation:
        """Of each step the best, and nothing that does not help. Ranges have headroom here."""
        plain = Preparation(extremes, means=window_means(self.graph, moments))
        strengths = {f"rescale {strength:g}": self._rescaled(plain, moments, strength) for strength in STRENGTHS}
        found = self._best({"no rescale": plain} | strengths)
        nearest = replace(found, steps={}) if found.steps else found
        together = found if found.steps else self._rounded(found, moments)
        found = self._best({"nearest codes": nearest, "rounded together": together})
        return self._best({"no bias correction": replace(found, means={}), "bias correction": found})

    def method(self, preparation: Preparation, table: CalibrationTable) -> CalibrationTable:
        """The table by the best range method. Its ranges may be of all images, the held-out ones among them.

        Where no held-out image needed the headroom, ranges without it score better by `_HEADROOM_DB`. That says nothing
        of the next thousand images, so they must win by twice as much.
        """
        tables = {method.value: table.with_method(method) for method in RangeMethod}
        scores = {name: self._score(preparation, each.ranges) for name, each in tables.items()}
        return tables[self._taken(scores, clearly=2 * _HEADROOM_DB)]

    def _rescaled(self, plain: Preparation, moments: Mapping[Windows, Moments], strength: float) -> Preparation:
        factors = rescale_factors(self.graph, plain.extremes, strength=strength)
        after = rescaled_extremes(self.graph, plain.extremes, factors)
        seen = rescaled_moments(self.graph, moments, factors)
        return self._rounded(Preparation(after, factors, means=window_means(self.graph, seen)), seen)

    def _rounded(self, preparation: Preparation, moments: Mapping[Windows, Moments]) -> Preparation:
        """With weights rounded together, by the moments after rescaling."""
        graph = preparation.rescaled(self.graph)
        return replace(preparation, steps=rounding_steps(graph, preparation.ranges, moments, WeightRange.FULL))

    def _best(self, preparations: dict[str, Preparation]) -> Preparation:
        for each in preparations.values():
            if each not in self._known:
                self._known[each] = self._score(each, each.ranges)
        return preparations[self._taken({name: self._known[each] for name, each in preparations.items()})]

    def _taken(self, scores: dict[str, float], *, clearly: float = CLEARLY_DB) -> str:
        """The highest score, or the first where nothing is ``clearly`` above it."""
        plain = next(iter(scores))
        best = max(scores, key=lambda name: scores[name])
        taken = best if scores[best] > scores[plain] + clearly else plain
        self.tried += [Trial(name, round(score, 2), name == taken) for name, score in scores.items()]
        return taken

    def _score(self, preparation: Preparation, ranges: Mapping[str, Ranges]) -> float:
        graph = preparation.rescaled(self.graph)
        ready = compensated(graph, ranges, steps=preparation.steps, means=preparation.means)
        return mean_sqnr_db(self._exact, self._logits(quantized(ready, ranges)))

    def _logits(self, model: onnx.ModelProto) -> NDArray[np.float32]:
        session = open_session(model, threads=1)
        name, rows = session.get_inputs()[0].name, []

        def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            image = self.graph.preprocess.normalize(pixels) if name == INPUT else pixels
            found: NDArray[np.float32] = session.run([OUTPUT], {name: image})[0]
            return found

        for row in side_by_side(logits, self.images):
            rows.append(row)
            self.done()
        return np.concatenate(rows)
