"""What a training tells while it runs, to whom, what of it stays in ``metrics.jsonl``, and how it may be stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from googlenet_edge.errors import ConfigError, OutputError, TrainingError
from googlenet_edge.files import check_file_place, write_bytes
from googlenet_edge.workspace import NOT_OURS

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

    def on_resume(self, epoch: int, step: int) -> None:
        """Training goes on where it was saved: after ``step`` steps of ``epoch``, counted from 1."""

    def on_step(self, report: StepReport) -> None:
        """A few steps are done."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch is done and evaluated, and saved where training saves."""

    def should_stop(self) -> bool:
        """Whether to stop now."""


class StoppedError(TrainingError):
    """Training was asked to stop; the message says whether it can go on from there."""


class Meter:
    """Keeps what the steps of a training came to, and how fast they go."""

    def __init__(self, *, epochs: int, steps: int, batch_size: int) -> None:
        """``steps`` are those of an epoch; time counts from now."""
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._started = self._epoch_started = time.monotonic()
        self._epoch = self._done = 0
        self._sums = 0.0, 0.0
        self._losses: list[float] = []
        self._hits: list[float] = []

    def begin(self, epoch: int, *, sums: tuple[float, float] = (0.0, 0.0)) -> None:
        """An epoch, counted from 0, begins, or goes on after steps that came to ``sums``."""
        self._epoch, self._losses, self._hits, self._sums = epoch, [], [], sums
        self._epoch_started = time.monotonic()

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
                images_per_s=self.images_per_s,
                remaining_s=left * self.seconds / self._done,
            )
        )

    def end(
        self,
        means: Iterable[float],
        evaluate: Callable[[], tuple[float, float]],
        *,
        learning_rate: float,
        seconds_before: float = 0.0,
    ) -> EpochReport:
        """The epoch is over: its mean loss and share of right answers, and what ``evaluate`` gives, top-1 and top-5."""
        (loss, train_top1), images_per_s, (top1, top5) = means, self.images_per_s, evaluate()
        seconds = seconds_before + self.seconds
        return EpochReport(self._epoch + 1, loss, train_top1, top1, top5, learning_rate, images_per_s, seconds)

    @property
    def images_per_s(self) -> float:
        """Of the epoch so far, as far as it was run here."""
        return len(self._losses) * self._batch_size / (time.monotonic() - self._epoch_started)

    @property
    def sums(self) -> tuple[float, float]:
        """The losses and the shares of right answers of the epoch's steps, added up."""
        return self._sums[0] + sum(self._losses), self._sums[1] + sum(self._hits)

    @property
    def seconds(self) -> float:
        """Since the meter was made."""
        return time.monotonic() - self._started


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def append_line(path: Path, value: Any) -> None:
    """Adds a dataclass as one line. Raises `OutputError`."""
    try:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(value) + b"\n")
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror}; free space or give another --out") from problem


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines as dictionaries; lines that a kill or a power cut damaged are left out."""
    if not path.is_file():
        return []
    return [line for text in path.read_bytes().split(b"\n") if (line := _decoded(text))]


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def refuse_another_s_lines(path: Path) -> None:
    """Raises `ConfigError` where there is something else than lines of trainings, `OutputError` where none can be.

    The beginning of a first line is one of ours that a full disk cut off.
    """
    check_file_place(path)
    data, lines = path.read_bytes() if path.is_file() else b"", read_lines(path)
    try:
        ours = bool(msgspec.convert(lines, list[EpochReport])) or not data
    except msgspec.ValidationError:
        ours = False
    if not (ours or (not lines and data.startswith(b'{"epoch":') and b"\n" not in data)):
        raise ConfigError(f"{path} {NOT_OURS}")


def drop_lines_from(path: Path, *, epoch: int) -> None:
    """Removes the lines of ``epoch`` and later ones, which are going to be run again."""
    if path.is_file():
        kept = [line for line in read_lines(path) if isinstance(number := line.get("epoch"), int) and number < epoch]
        write_bytes(path, b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
