"""How to quantize a graph, by trial: what counts is the noise that is left in the logits of held-out images.

First how far channels are rescaled, then the range method, then bias correction; each stands on what was taken before
it, and must win clearly over doing without. All are judged with 8-bit weights and exact sums, so that the choice is the
same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from googlenet_edge.calibration.lower import bias_corrected, quantized
from googlenet_edge.calibration.ranges import RangeMethod, Ranges
from googlenet_edge.calibration.rescale import ChannelExtremes, rescale_factors, rescaled, rescaled_extremes
from googlenet_edge.calibration.session import open_session, side_by_side
from googlenet_edge.calibration.table import CalibrationTable, Trial, encode_floats
from googlenet_edge.graph import INPUT, OUTPUT, InferenceGraph
from googlenet_edge.statistics import sqnr_db

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
CLEARLY_DB = 0.1

Done = Callable[[], None]
Factors = dict[str, NDArray[np.float32]]


@dataclass
class Trials:
    """The trials of one graph on held-out ``images``, uint8 ``(1, crop, crop, 3)``; ``done`` is told of each run."""

    graph: InferenceGraph
    images: Sequence[NDArray[np.uint8]]
    done: Done
    tried: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._exact = self._logits(self.graph.model)

    def rescaling(self, extremes: Mapping[str, ChannelExtremes]) -> Factors:
        """The factors of the best strength; none where the graph is best left as it is. Ranges are min/max here."""
        candidates = {"no rescale": Factors()}
        for strength in STRENGTHS:
            candidates[f"rescale {strength:g}"] = rescale_factors(self.graph, extremes, strength=strength)

        def score(factors: Factors) -> float:
            if not factors:
                return self._score(self.graph, {name: found.ranges for name, found in extremes.items()})
            after = rescaled_extremes(self.graph, extremes, factors)
            return self._score(rescaled(self.graph, factors), {name: found.ranges for name, found in after.items()})

        return candidates[self._best({name: score(factors) for name, factors in candidates.items()})]

    def method(self, prepared: InferenceGraph, table: CalibrationTable) -> CalibrationTable:
        """The table by the best range method; ``table`` is by min/max."""
        tables = {method.value: table.with_method(method) for method in RangeMethod}
        return tables[self._best({name: self._score(prepared, each.ranges) for name, each in tables.items()})]

    def means(self, prepared: InferenceGraph, ranges: Mapping[str, Ranges], found: Factors) -> Factors:
        """The channel means that were found; none where correcting the biases by them does not help."""
        scores = {
            "no bias correction": self._score(prepared, ranges),
            "bias correction": self._score(bias_corrected(prepared, ranges, found), ranges),
        }
        return found if self._best(scores) == "bias correction" else {}

    def _score(self, graph: InferenceGraph, ranges: Mapping[str, Ranges]) -> float:
        return sqnr_db(self._exact, self._logits(quantized(graph, ranges)))

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


def encoded(factors: Factors) -> dict[str, str]:
    """As they stand in the table."""
    return {name: encode_floats(value) for name, value in factors.items()}
