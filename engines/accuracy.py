"""How often a model is right, and whether another one is as often right on the same images. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.statistics import (
    Count,
    Interval,
    Share,
    mcnemar_exact_p,
    paired_difference_interval,
    wilson_interval,
)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares (0…1) of ``images`` whose class came first, or among the first five, with the 95 % interval of top-1."""

    images: Count
    top1: Share
    top1_interval: Interval
    top5: Share


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model against a reference on the same images.

    ``agreement`` is the share (0…1) of images with the same first class. ``top1_change_points`` is the model's top-1
    minus the reference's in percentage points, below zero for a loss, with its paired 95 % interval.
    ``mcnemar_p`` is the probability of a difference this large between equals.
    """

    reference: Accuracy
    agreement: Share
    top1_change_points: float
    top1_change_interval: Interval
    mcnemar_p: Share

    @property
    def differs(self) -> bool:
        """Whether the two can be told apart at the level of 5 %, or what was lost or gained may be chance."""
        return self.mcnemar_p <= 0.05

    def __str__(self) -> str:
        """What changed, and whether that can be told from chance."""
        verdict = "a real difference" if self.differs else "not told from chance"
        return (
            f"top-1 changes by {self.top1_change_points:+.2f} points (95 % interval {self.top1_change_interval:+.2f};"
            f" McNemar p {self.mcnemar_p:.2f}: {verdict}); {self.agreement:.2%} of the predictions are equal"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a model said about every image of a set, in the order of the set.

    ``labels`` (the truth) and ``predicted`` are int64 ``(n,)``, ``in_top5`` is bool ``(n,)``. ``backend`` is the
    runtime that computed it.
    """

    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    in_top5: NDArray[np.bool_]
    seconds: float
    backend: str

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool ``(n,)``: the first class is the true one."""
        return np.equal(self.predicted, self.labels)

    @property
    def accuracy(self) -> Accuracy:
        """The summary."""
        count, right = len(self.labels), int(self.correct.sum())
        return Accuracy(count, right / count, wilson_interval(right, count), float(self.in_top5.mean()))

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """``(true class, predicted class, number of images)`` of all that were mistaken, the most frequent first."""
        wrong, classes = ~self.correct, len(self.class_names)
        pairs, counts = np.unique(self.labels[wrong] * classes + self.predicted[wrong], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        found = zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
        return [(*divmod(pair, classes), count) for pair, count in found]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """int64 ``(classes, classes)``: row = true class, column = predicted class, number of images.

        For a few classes: of many it takes memory that `confused` does not.
        """
        classes = len(self.class_names)
        cells = np.bincount(self.labels * classes + self.predicted, minlength=classes * classes)
        return cells.reshape(classes, classes)


def compare(reference: Evaluation, candidate: Evaluation) -> Comparison:
    """The candidate against the reference, image by image: both are of the same images, with the same classes."""
    gained = int((candidate.correct & ~reference.correct).sum())
    lost = int((reference.correct & ~candidate.correct).sum())
    images = len(reference.labels)
    interval = paired_difference_interval(gained, lost, images)
    return Comparison(
        reference=reference.accuracy,
        agreement=float((reference.predicted == candidate.predicted).mean()),
        top1_change_points=100 * (gained - lost) / images,
        top1_change_interval=interval.percent(),
        mcnemar_p=mcnemar_exact_p(gained, lost),
    )
