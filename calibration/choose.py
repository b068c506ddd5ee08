"""How to quantize a graph, by trial: what counts is the noise that is left in the logits of held-out images.

First how far channels are rescaled before weights are rounded together, then whether biases are corrected, then the
range method; each stands on what was taken before it, and must win clearly over doing without. All are judged with
8-bit weights and exact sums, so that the choice is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.compensate import Means, compensated, window_means
from googlenet_edge.calibration.lower import quantized
from googlenet_edge.calibration.ranges import RangeMethod, Ranges
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
from googlenet_edge.statistics import sqnr_db

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
CLEARLY_DB = 0.1

Done = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Way:
    """How a graph is made ready: its channels times factors, its weights on other codes than the nearest, its biases.

    ``graph`` and ``extremes`` are rescaled. What is left out is as it was.
    """

    graph: InferenceGraph
    extremes: Mapping[str, ChannelExtremes]
    factors: Factors = field(default_factory=dict)
    steps: Steps = field(default_factory=dict)
    means: Means = field(default_factory=dict)

    @property
    def ranges(self) -> dict[str, Ranges]:
        """By min/max."""
        return {name: found.ranges for name, found in self.extremes.items()}


@dataclass
class Trials:
    """The trials of one graph on held-out ``images``, uint8 ``(1, crop, crop, 3)``; ``done`` is told of each run."""

    graph: InferenceGraph
    images: Sequence[NDArray[np.uint8]]
    done: Done
    tried: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._exact = self._logits(self.graph.model)

    def way(self, extremes: Mapping[str, ChannelExtremes], moments: Mapping[Windows, Moments]) -> Way:
        """The best strength of rescaling with weights rounded together, and corrected biases; each only if it helps.

        Ranges are min/max here.
        """
        plain = Way(self.graph, extremes)
        ways, scores = {"as it is": plain}, {"as it is": self._score(plain, plain.ranges)}
        for strength in STRENGTHS:
            name = f"rescale {strength:g}, rounded together"
            ways[name] = self._rounded(plain, moments, strength)
            scores[name] = self._score(ways[name], ways[name].ranges)
        best = ways[self._best(scores)]
        means = best.means or window_means(self.graph, moments)
        both = {"no bias correction": replace(best, means={}), "bias correction": replace(best, means=means)}
        return both[self._best({name: self._score(way, way.ranges) for name, way in both.items()})]

    def method(self, way: Way, table: CalibrationTable) -> CalibrationTable:
        """The table by the best range method; ``table`` is by min/max."""
        tables = {method.value: table.with_method(method) for method in RangeMethod}
        return tables[self._best({name: self._score(way, each.ranges) for name, each in tables.items()})]

    def _rounded(self, plain: Way, moments: Mapping[Windows, Moments], strength: float) -> Way:
        factors = rescale_factors(self.graph, plain.extremes, strength=strength)
        after = rescaled_extremes(self.graph, plain.extremes, factors)
        seen = rescaled_moments(self.graph, moments, factors)
        way = Way(rescaled(self.graph, factors), after, factors, means=window_means(self.graph, seen))
        return replace(way, steps=rounding_steps(way.graph, way.ranges, seen, WeightRange.FULL))

    def _score(self, way: Way, ranges: Mapping[str, Ranges]) -> float:
        ready = compensated(way.graph, ranges, steps=way.steps, means=way.means)
        return sqnr_db(self._exact, self._logits(quantized(ready, ranges)))

    def _best(self, scores: dict[str, float]) -> str:
        """The highest score, or the first where nothing is clearly above it."""
        plain = next(iter(scores))
        best = max(scores, key=lambda name: scores[name])
        taken = best if scores[best] > scores[plain] + CLEARLY_DB else plain
        self.tried += [Trial(name, round(score, 2), name == taken) for name, score in scores.items()]
        return taken

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
