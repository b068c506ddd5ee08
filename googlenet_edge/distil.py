"""Distillation: a student learns to answer as its teacher does, on the images that both were made for.

The target is the teacher's whole distribution over the classes, which says of every image what else it looks like. So a
student that was changed a little (its channels removed, its arithmetic coarsened) finds back in few epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_edge.augment import Epoch, TrainingBatches, clear_errors, to_input
from googlenet_edge.checkpoint import CheckpointInfo
from googlenet_edge.descent import Descent, DescentConfig, autocast, batch_size_for
from googlenet_edge.reports import EpochReport, Meter, Observer, StoppedError
from googlenet_edge.statistics import Count
from googlenet_edge.training_loop import TrainingData, evaluate_model, placed, top1_share

_MEND = "start again with a lower --learning-rate"
_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class DistilConfig(DescentConfig):
    """How a student is taught."""

    epochs: Count = 3
    learning_rate: float = 0.01
    weight_decay: float = 1e-4


def as_trained(config: DistilConfig, teacher: CheckpointInfo) -> DistilConfig:
    """With the augmentation that the teacher learned from, where its file says so: signs are not mirrored then."""
    known = teacher.training.augmentation if teacher.training else None
    return replace(config, augmentation=known) if known else config


@clear_errors()
def distil(
    student: nn.Module,
    teacher: nn.Module,
    data: TrainingData,
    config: DistilConfig,
    *,
    observer: Observer,
    workers: int = 2,
) -> None:
    """Trains the student's parameters in place, so that its logits follow the teacher's; leaves it in eval mode.

    Both map float32 ``(N, 3, crop, crop)`` to logits ``(N, classes)``; both end up on the device that trains. Nothing
    is saved on the way: who stops it starts again from the beginning.

    Args:
        observer: told of steps and epochs as in training, with the student's accuracy.
        workers: processes that load images.

    Raises:
        TrainingError: the loss or a weight is not finite, or there is not enough memory; the student cannot be used any
            more.
        DamagedImageError: an image was changed or removed since it was checked.
        StoppedError: the observer asked to stop.
    """
    with _seeded(config.seed):
        lessons = _Lessons(student, teacher, data, config, observer=observer, workers=workers)
        with lessons.batches:
            for epoch in range(config.epochs):
                observer.on_epoch(lessons.epoch(epoch))


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """T² · KL(teacher ‖ student) of the distributions softened by T = 2.

    ``student``, ``teacher``: logits ``(N, classes)``, of any float type.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2; T²
    keeps the size of the gradient what it is without softening.
    """
    found, wanted = (F.log_softmax(logits.float() / _TEMPERATURE, dim=1) for logits in (student, teacher))
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * _TEMPERATURE**2


class _Lessons:
    """Student, teacher, optimizer and data while they are at it."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        data: TrainingData,
        config: DistilConfig,
        *,
        observer: Observer,
        workers: int,
    ) -> None:
        self.data, self.config, self.observer = data, config, observer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.student, self.teacher = (placed(network, self.device) for network in (student, teacher))
        self.batch_size = batch_size_for(config.batch_size, len(data.train))
        self.steps = len(data.train) // self.batch_size
        self.total = config.epochs * self.steps
        self.descent = Descent(self.student, config, steps=self.total, device=self.device, mend=_MEND)
        self.meter = Meter(epochs=config.epochs, steps=self.steps, batch_size=self.batch_size)
        self.batches = TrainingBatches(data.train, data.preprocess, config.augmentation, workers=workers)

    def epoch(self, epoch: int) -> EpochReport:
        """All steps of one epoch, counted from 0, then the evaluation."""
        self.student.train()
        self.meter.begin(epoch)
        plan = Epoch(len(self.data.train), self.batch_size, self.config.seed, epoch)
        for done, (pixels, colours, labels) in enumerate(self.batches.of(plan), start=1):
            number = epoch * self.steps + done
            self.meter.add(*self._step(number - 1, pixels, colours, labels))
            self.meter.report(done, self.observer)
            if number < self.total and self.observer.should_stop():
                raise StoppedError(
                    f"stopped in epoch {epoch + 1} of {self.config.epochs} after step {done} of {self.steps}; this"
                    " training is not kept, the same command starts again"
                )
        self.descent.require_finite_weights()
        means = (total / self.steps for total in self.meter.sums)
        rate = self.descent.rate((epoch + 1) * self.steps - 1)
        return self.meter.end(means, self._evaluate, learning_rate=rate)

    def _evaluate(self) -> tuple[float, float]:
        return evaluate_model(self.student.eval(), self.data.val, self.data.preprocess)

    def _step(self, number: int, pixels: Tensor, colours: Tensor, labels: Tensor) -> tuple[float, float]:
        """(loss, top-1 as a share of the batch)."""
        x = to_input(pixels.to(self.device), self.data.preprocess, colours.to(self.device))
        with autocast(self.device, wanted=self.config.mixed_precision):
            with torch.no_grad():
                wanted = self.teacher(x)
            found = self.student(x)
        return self.descent.step(number, distillation_loss(found, wanted)), top1_share(found.detach(), labels)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Dropout draws from ``seed``; what others draw is left as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
