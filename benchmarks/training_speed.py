"""Images a second in training, as `gnet-edge train` does it: loading, augmentation, both auxiliary heads, averaging.

After some steps of warm-up, in which the loading processes fill their queues, the end of every step is timed.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from common import Figure, Result, at_least, conclude, parser, run

from googlenet_edge.augment import Augmentation
from googlenet_edge.checkpoint import CheckpointInfo
from googlenet_edge.console import bar
from googlenet_edge.dataset import Progress, open_dataset
from googlenet_edge.engines.circumstances import read_circumstances
from googlenet_edge.errors import DataError
from googlenet_edge.parallel import Rank
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.reports import EpochReport, StepReport, StoppedError
from googlenet_edge.statistics import median_interval, summarize
from googlenet_edge.training_loop import TrainingData, prepare_process, train_from
from googlenet_edge.training_state import TrainConfig, first_state

LEAST_IMAGES_PER_S = 400


@dataclass
class Stopwatch:
    """An observer of training that notes when each step ended, and stops after ``steps``."""

    steps: int
    progress: Progress
    ends: list[float] = field(default_factory=list)

    def should_stop(self) -> bool:
        """Asked after every step."""
        self.ends.append(time.perf_counter())
        self.progress(len(self.ends), self.steps)
        return len(self.ends) >= self.steps

    def on_resume(self, epoch: int, step: int) -> None:
        """Never reached: every training is new."""

    def on_step(self, report: StepReport) -> None:
        """Nothing to note."""

    def on_epoch(self, report: EpochReport) -> None:
        """Never reached: all steps are in the first epoch."""


@dataclass(frozen=True, slots=True)
class Details:
    """Every timed step."""

    batch_size: int
    size: int
    workers: int
    torch_version: str
    torch_threads: int
    step_seconds: tuple[float, ...]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/* and val/CLASS/*")
    options.add_argument("--size", type=at_least(32), default=64, help="side of the network's input, pixels")
    options.add_argument("--batch-size", type=at_least(2), default=128, help="images a step")
    options.add_argument("--steps", type=at_least(6), default=60, help="timed steps, 6 or more")
    options.add_argument("--warm-up", type=at_least(1), default=20, help="steps before them")
    options.add_argument("--workers", type=at_least(0), default=2, help="processes that load images")
    given = options.parse_args()
    circumstances = read_circumstances()
    images = open_dataset(given.data).train
    needed = (given.warm_up + given.steps + 1) * given.batch_size
    if len(images) < needed:
        raise DataError(f"{images.root} has {len(images)} images, {needed} are needed; lower --steps or --batch-size")
    config = TrainConfig(batch_size=given.batch_size, augmentation=Augmentation(min_area=0.6))
    data = TrainingData(images, images, "0" * 64, "0" * 64, Preprocess(given.size, given.size))
    ends = step_ends(data, config, steps=given.warm_up + given.steps, workers=given.workers)
    seconds = tuple(after - before for before, after in pairwise(ends[given.warm_up - 1 :]))
    details = Details(
        given.batch_size, given.size, given.workers, str(torch.__version__), torch.get_num_threads(), seconds
    )
    conclude(Result(figures_of(details), circumstances, details), given.out)


def step_ends(data: TrainingData, config: TrainConfig, *, steps: int, workers: int) -> list[float]:
    """Trains for some steps; the moment in which each ended, in seconds."""
    prepare_process()
    state = first_state(CheckpointInfo(data.train.class_names, data.preprocess), config, images_sha256="")
    with tempfile.TemporaryDirectory() as folder, bar("training") as progress:
        watch = Stopwatch(steps, progress)
        try:
            train_from(state, data, folder=Path(folder), rank=Rank(), observer=watch, workers=workers)
        except StoppedError:
            return watch.ends
    raise AssertionError("an epoch has more steps than were asked for, so training was stopped")


def figures_of(details: Details) -> tuple[Figure, ...]:
    """The speed over all timed steps, which is what a training feels, and that of the median step."""
    seconds, batch = details.step_seconds, details.batch_size
    speeds = [batch / each for each in seconds]
    summary, interval = summarize(speeds), median_interval(speeds)
    detail = f"95 % interval {interval.low:.0f}…{interval.high:.0f}, spread {summary.spread:.1%}"
    overall = f"{len(seconds)} steps of {batch} at {details.size}×{details.size}"
    return (
        Figure("training", batch * len(seconds) / sum(seconds), "images/s", least=LEAST_IMAGES_PER_S, detail=overall),
        Figure("its median step", summary.p50, "images/s", detail=detail),
    )


if __name__ == "__main__":
    run(main)
