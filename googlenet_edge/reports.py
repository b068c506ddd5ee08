"""What a training tells while it runs, to whom, and how it may be stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from googlenet_edge.errors import TrainingError

STEPS_PER_REPORT = 10


@dataclass(frozen=True, slots=True)
class StepReport:
    """The last few steps, for a progress bar. ``remaining_s`` counts all epochs."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    top1: float
    images_per_s: float
    remaining_s: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One line of ``metrics.jsonl``. Accuracies are shares; ``val_*`` of the network as it is saved."""

    epoch: int
    loss: float
    train_top1: float
    val_top1: float
    val_top5: float
    learning_rate: float
    images_per_s: float
    seconds: float


class Observer(Protocol):
    """Who is told how training goes, and may ask it to stop after the step at hand."""

    def on_step(self, report: StepReport) -> None:
        """A few steps are done."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch is done and evaluated, and saved where training saves."""

    def should_stop(self) -> bool:
        """Whether to stop now."""


class StoppedError(TrainingError):
    """Training was asked to stop; the message says whether it can go on from there."""


@dataclass(frozen=True, slots=True)
class EpochMeans:
    """Means over the steps of an epoch; ``top1`` is a share of the training images."""

    loss: float
    top1: float
    images_per_s: float


class Meter:
    """Keeps what the steps of a training came to, and how fast they go."""

    def __init__(
        self, *, epochs: int, steps: int, batch_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``steps`` are those of an epoch; time counts from now."""
        self._epochs, self._steps, self._batch_size, self._clock = epochs, steps, batch_size, clock
        self._started = self._epoch_started = clock()
        self._epoch = self._done = 0
        self._losses: list[float] = []
        self._hits: list[float] = []

    def begin(self, epoch: int) -> None:
        """An epoch, counted from 0, begins."""
        self._epoch, self._losses, self._hits = epoch, [], []
        self._epoch_started = self._clock()

    def add(self, loss: float, top1: float) -> None:
        """A step is done."""
        self._losses.append(loss)
        self._hits.append(top1)
        self._done += 1

    def report(self, step: int, observer: Observer) -> None:
        """Tells the observer after the first step, every few, and the last. ``step`` of the epoch, from 1, is done."""
        if step % STEPS_PER_REPORT and step not in (1, self._steps):
            return
        left = (self._epochs - self._epoch) * self._steps - step
        observer.on_step(
            StepReport(
                epoch=self._epoch + 1,
                epochs=self._epochs,
                step=step,
                steps=self._steps,
                loss=_mean(self._losses[-STEPS_PER_REPORT:]),
                top1=_mean(self._hits[-STEPS_PER_REPORT:]),
                images_per_s=self._done * self._batch_size / self.seconds,
                remaining_s=left * self.seconds / self._done,
            )
        )

    def means(self) -> EpochMeans:
        """Of the epoch so far."""
        seconds = self._clock() - self._epoch_started
        rate = len(self._losses) * self._batch_size / seconds if self._losses else 0.0
        return EpochMeans(_mean(self._losses), _mean(self._hits), rate)

    @property
    def seconds(self) -> float:
        """Since the meter was made."""
        return self._clock() - self._started


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
