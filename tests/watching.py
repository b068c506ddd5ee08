"""An observer of training that remembers what it was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from googlenet_edge.reports import EpochReport, StepReport


@dataclass
class Watching:
    """An observer that asks to stop after so many steps."""

    stop_after: int = 1 << 30
    steps: list[StepReport] = field(default_factory=list)
    epochs: list[EpochReport] = field(default_factory=list)
    asked: int = 0

    def on_resume(self, epoch: int, step: int) -> None:
        """What the command says of it has tests of its own."""

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)

    def should_stop(self) -> bool:
        self.asked += 1
        return self.asked >= self.stop_after
