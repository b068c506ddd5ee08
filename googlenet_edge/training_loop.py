"""Training: main loss + 0.3 × each auxiliary loss, the descent of `descent`, weight averaging.

`train_from` can be killed at any moment and called again: it goes on from the last saved step with the same images, the
same draws and so the same result: to the last bit on a processor, in one process.
"""

from __future__ import annotations

import ctypes
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from googlenet_edge.augment import Epoch, TrainingBatches, clear_errors, to_input
from googlenet_edge.checkpoint import Checkpoint, TrainingRecord
from googlenet_edge.dataset import ImageSet, Pixels, load_pixels
from googlenet_edge.descent import Descent, DescentConfig, autocast, batch_size_for
from googlenet_edge.errors import TrainingError
from googlenet_edge.model import GoogLeNet
from googlenet_edge.parallel import Rank, any_rank, make_parallel, mean_of_ranks
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.processor import usable_cores
from googlenet_edge.reports import EpochReport, Meter, Observer, StoppedError, append_line, drop_lines_from
from googlenet_edge.training_state import TrainConfig, TrainingState, write_state
from googlenet_edge.workspace import METRICS_FILE

Network = TypeVar("Network", bound=nn.Module)
AUX_WEIGHT = 0.3
LABEL_SMOOTHING = 0.1
EMA_HALF_LIFE_SHARE = 0.02
EVAL_BATCH = 100
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
MAYBE_SEEN = "the validation images are not those of the training; the network may have been trained on some of them"
_log = logging.getLogger(__name__)
_MEND = "start again with a lower --learning-rate and another --out"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Checked images with their hashes, and the preprocessing that evaluation and every engine will use.

    ``kept``: pixels of validation images, which then need not be decoded in every epoch.
    """

    train: ImageSet
    val: ImageSet
    train_sha256: str
    val_sha256: str
    preprocess: Preprocess
    parent_sha256: str = ""
    val_is_unseen: bool = True
    kept: Pixels = field(default_factory=dict)

    def after(self, parent: Checkpoint) -> TrainingData:
        """For what begins with weights that were trained before, perhaps on some of ``val``: then a warning is told."""
        before = parent.info.training
        unseen = before is None or before.val_images_sha256 == self.val_sha256
        if not unseen:
            _log.warning("%s", MAYBE_SEEN)
        return replace(self, parent_sha256=parent.sha256, val_is_unseen=unseen)

    def evaluated(self, model: nn.Module) -> tuple[float, float]:
        """`evaluate_model` on ``val``."""
        return evaluate_model(model, self.val, self.preprocess, kept=self.kept)

    def record(self, config: DescentConfig, accuracy: tuple[float, float], seconds: float) -> TrainingRecord:
        """Of a training on them; ``accuracy`` is (top-1, top-5) on ``val``."""
        hashes = self.train_sha256, self.val_sha256 if self.val_is_unseen else ""
        return TrainingRecord(
            config.epochs, len(self.train), *hashes, *accuracy, seconds, self.parent_sha256, config.augmentation
        )


@clear_errors()
def train_from(
    state: TrainingState, data: TrainingData, *, folder: Path, rank: Rank, observer: Observer, workers: int = 2
) -> Checkpoint:
    """Trains from ``state`` to the last epoch; saves every epoch, and when asked to stop, in ``folder``.

    Returns the checkpoint of the averaged weights; does not write it.

    Raises:
        TrainingError: the loss is not finite, there is not enough memory, or another process is at another step.
        DamagedImageError: an image was changed or removed since it was checked.
        StoppedError: the observer asked to stop.
    """
    loop = _Training(state, data, folder, rank=rank, observer=observer, workers=workers)
    metrics = folder / METRICS_FILE
    if rank.first:
        drop_lines_from(metrics, epoch=state.epoch + 1)
    report = None
    with loop.batches:
        for epoch in range(state.epoch, state.config.epochs):
            report = loop.epoch(epoch)
            if rank.first:
                append_line(metrics, report)
                write_state(folder, loop.state(epoch + 1, 0))
                observer.on_epoch(report)
            if epoch + 1 < state.config.epochs and loop.asked_to_stop():
                raise _stopped(f"after epoch {epoch + 1} of {state.config.epochs}")
    return loop.checkpoint((report.val_top1, report.val_top5) if report else loop.evaluate())


def prepare_process() -> None:
    """What a process that trains begins with: as many threads as it has cores for, and memory that stays.

    PyTorch counts the cores that are there, also where a container has less processor time. And a step frees the same
    large buffers that the next one takes: if glibc did not keep them (``mallopt``; another C library is left as it is),
    the system would have to clear and map their pages again.
    """
    if usable_cores() < torch.get_num_threads():
        torch.set_num_threads(usable_cores())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def training_loss(outputs: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of the main head + 0.3 × that of each auxiliary head (arXiv 1409.4842, section 5)."""
    main, *auxiliary = (F.cross_entropy(o.float(), labels, label_smoothing=LABEL_SMOOTHING) for o in outputs)
    return main + AUX_WEIGHT * torch.stack(auxiliary).sum()


def ema_decay_at(step: int, *, steps: int) -> float:
    """The share of the average that stays: a half-life of 2 % of all steps, and less while the average is young."""
    settled = math.exp(-math.log(2) / max(1.0, EMA_HALF_LIFE_SHARE * steps))
    return min(settled, (1 + step) / (10 + step))


def evaluate_model(
    model: nn.Module, images: ImageSet, preprocess: Preprocess, *, kept: Pixels | None = None
) -> tuple[float, float]:
    """(top-1, top-5) as shares, in FP32. ``model``: in eval mode, float32 ``(N, 3, crop, crop)`` → ``(N, classes)``."""
    device = next(model.parameters()).device
    top1 = top5 = done = 0
    size = max(1, EVAL_BATCH * 224**2 // max(224, preprocess.crop) ** 2)  # in the memory of a step
    pixels = iter(load_pixels(images, preprocess, kept=kept))
    while batch := list(islice(pixels, size)):
        x = torch.from_numpy(preprocess.normalize(np.stack(batch))).to(device, memory_format=torch.channels_last)
        labels = torch.tensor(images.labels[done : done + len(batch)], device=device)
        with torch.inference_mode():
            best = model(x).topk(min(5, len(images.class_names))).indices
        hits = best == labels[:, None]
        top1, top5, done = top1 + int(hits[:, 0].sum()), top5 + int(hits.sum()), done + len(batch)
    return top1 / done, top5 / done


def placed(network: Network, device: torch.device) -> Network:
    """On a device, in channels-last memory and in eval mode."""
    return network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload,no-any-return]


def top1_share(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of ``logits`` ``(N, classes)``, on any device, whose largest is at ``labels`` ``(N,)``."""
    return float((logits.argmax(1).cpu() == labels).float().mean())


class _Forward(nn.Module):
    """The part of a step that `DistributedDataParallel` wraps: images and labels → loss and main logits."""

    def __init__(self, model: GoogLeNet, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(x.device, wanted=self.config.mixed_precision):
            outputs = self.model.forward_with_aux(x)
        loss = training_loss(outputs, labels)
        return loss, outputs.logits.detach()


class Loop(ABC):
    """Epochs over the images of a training, told to an observer. What the loss of a step is, a subclass says."""

    def __init__(
        self,
        model: nn.Module,
        config: DescentConfig,
        data: TrainingData,
        *,
        rank: Rank,
        observer: Observer,
        workers: int,
        mend: str,
        at_random: bool = False,
    ) -> None:
        """``model`` is on the device that trains; ``mend`` and ``at_random`` as `Descent` takes them."""
        self.model, self.config, self.data, self.rank, self.observer = model, config, data, rank, observer
        self.device = next(model.parameters()).device
        self.batch_size = batch_size_for(config.batch_size, len(data.train), processes=rank.world)
        self.steps = len(data.train) // self.batch_size
        self.total = self.steps * config.epochs
        self.descent = Descent(model, config, steps=self.total, device=self.device, mend=mend, at_random=at_random)
        self.meter = Meter(epochs=config.epochs, steps=self.steps, batch_size=self.batch_size)
        self.batches = TrainingBatches(data.train, data.preprocess, config.augmentation, workers=workers)

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, logits without gradient) of float32 ``(N, 3, crop, crop)`` and labels ``(N,)``."""

    @abstractmethod
    def after_step(self, epoch: int, done: int) -> None:
        """``done`` steps of ``epoch``, counted from 0, are done. Raises `StoppedError` where the observer asks so."""

    @abstractmethod
    def evaluate(self) -> tuple[float, float]:
        """(top-1, top-5) on the validation images."""

    def run_epoch(
        self,
        epoch: int,
        *,
        first: int = 0,
        sums: tuple[float, float] = (0.0, 0.0),
        seconds_before: float = 0.0,
        plain: bool = False,
    ) -> EpochReport:
        """The steps of one epoch, from ``first`` on, whose ``sums`` are those before it; then the evaluation."""
        plan = Epoch(
            len(self.data.train),
            self.batch_size,
            self.config.seed,
            epoch,
            first,
            self.rank.index,
            self.rank.world,
            plain,
        )
        self.model.train()
        self.meter.begin(epoch, sums=sums)
        for step, (pixels, colours, labels) in enumerate(self.batches.of(plan), start=first):
            x = to_input(pixels.to(self.device), self.data.preprocess, colours.to(self.device))
            loss, logits = self.loss(x, labels.to(self.device))
            self.meter.add(self.descent.step(epoch * self.steps + step, loss), top1_share(logits, labels))
            self.meter.report(step + 1, self.observer)
            self.after_step(epoch, step + 1)
        self.descent.require_finite_weights()
        means = mean_of_ranks([total / self.steps for total in self.meter.sums], self.rank, self.device)
        rate = self.descent.rate((epoch + 1) * self.steps - 1)
        return self.meter.end(means, self.evaluate, learning_rate=rate, seconds_before=seconds_before)


class _Training(Loop):
    """The network, its average and what is saved of both."""

    config: TrainConfig

    def __init__(
        self, state: TrainingState, data: TrainingData, folder: Path, *, rank: Rank, observer: Observer, workers: int
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        place = [float(state.epoch), float(state.step), float(int(data.train_sha256[:12], 16))]
        if mean_of_ranks(place, rank, device) != place:
            raise TrainingError(
                "processes would go on from different steps or with different images; give --data and --out on disks"
                " that all of them share"
            )
        self.generator = torch.Generator().manual_seed(state.config.seed)
        if state.generator is not None:
            self.generator.set_state(state.generator)
        self.folder, self.info, self.start = folder, state.info, state.start
        model, self.average = (self._network(weights, device) for weights in (state.weights, state.average))
        make_parallel(model, rank, self.generator)
        random = not state.start
        super().__init__(
            model, state.config, data, rank=rank, observer=observer, workers=workers, mend=_MEND, at_random=random
        )
        forward = _Forward(model, state.config).train()
        self.forward: nn.Module = DistributedDataParallel(forward) if rank.world > 1 else forward
        self.descent.load_momentum(state.momentum)
        self.descent.load_scaling(state.scaling)
        self.first_step, self.first_sums, self.seconds_before = state.step, state.sums, state.seconds

    def _network(self, weights: dict[str, Tensor], device: torch.device) -> GoogLeNet:
        model = GoogLeNet(self.info.model_config())
        model.load_state_dict(weights)
        return placed(model, device)

    def epoch(self, epoch: int) -> EpochReport:
        """`run_epoch`, at first from where it was saved."""
        first, sums = self.first_step, self.first_sums
        self.first_step, self.first_sums = 0, (0.0, 0.0)
        plain = epoch >= self.config.epochs - self.config.plain_epochs
        return self.run_epoch(epoch, first=first, sums=sums, seconds_before=self.seconds_before, plain=plain)

    def loss(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """That of all heads."""
        found: tuple[Tensor, Tensor] = self.forward(x, labels)
        return found

    def after_step(self, epoch: int, done: int) -> None:
        """Takes the step into the average, and saves where it is asked to stop."""
        _average(self.average, self.model, decay=ema_decay_at(epoch * self.steps + done - 1, steps=self.total))
        if done < self.steps and self.asked_to_stop():
            losses, hits = mean_of_ranks([*self.meter.sums], self.rank, self.device)
            if self.rank.first:
                write_state(self.folder, self.state(epoch, done, sums=(losses, hits)))
            any_rank(False, self.rank, self.device)  # once one process ends, torchrun kills the one that saves
            raise _stopped(f"in epoch {epoch + 1} after step {done} of {self.steps}")

    def asked_to_stop(self) -> bool:
        """Whether the observer of any process asks to stop."""
        return any_rank(self.observer.should_stop(), self.rank, self.device)

    def evaluate(self) -> tuple[float, float]:
        """(top-1, top-5) of the averaged weights, in the first process; the others do not look."""
        return self.data.evaluated(self.average) if self.rank.first else (0.0, 0.0)

    def _seconds(self) -> float:
        return self.seconds_before + self.meter.seconds

    def state(self, epoch: int, step: int, *, sums: tuple[float, float] = (0.0, 0.0)) -> TrainingState:
        """Everything that is needed to go on from ``step`` of ``epoch``, both counted from 0."""
        return TrainingState(
            info=self.info,
            config=self.config,
            images_sha256=self.data.train_sha256,
            epoch=epoch,
            step=step,
            seconds=self._seconds(),
            weights=self.model.state_dict(),
            average=self.average.state_dict(),
            momentum=self.descent.momentum(),
            generator=self.generator.get_state(),
            start=self.start,
            batch_size=self.batch_size,
            scaling=self.descent.scaling(),
            sums=sums,
        )

    def checkpoint(self, accuracy: tuple[float, float]) -> Checkpoint:
        """The averaged weights with their record."""
        record = self.data.record(self.config, accuracy, self._seconds())
        return Checkpoint(replace(self.info, training=record), self.average.state_dict())


def _stopped(where: str) -> StoppedError:
    return StoppedError(f"training stopped {where} and was saved; the same command goes on from there")


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    """average ← decay × average + (1 - decay) × model, for weights and running statistics."""
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
