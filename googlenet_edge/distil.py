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

from googlenet_edge.augment import clear_errors
from googlenet_edge.checkpoint import CheckpointInfo
from googlenet_edge.descent import DescentConfig, autocast
from googlenet_edge.parallel import Rank
from googlenet_edge.reports import Observer, StoppedError
from googlenet_edge.statistics import Count
from googlenet_edge.training_loop import Loop, TrainingData, placed

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
                observer.on_epoch(lessons.run_epoch(epoch))


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """T² · KL(teacher ‖ student) of the distributions softened by T = 2.

    ``student``, ``teacher``: logits ``(N, classes)``, of any float type.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2; T²
    keeps the size of the gradient what it is without softening.
    """
    found, wanted = (F.log_softmax(logits.float() / _TEMPERATURE, dim=1) for logits in (student, teacher))
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True) * _TEMPERATURE**2


class _Lessons(Loop):
    """Of a student with its teacher."""

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
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        student, self.teacher = (placed(network, device) for network in (student, teacher))
        super().__init__(student, config, data, rank=Rank(), observer=observer, workers=workers, mend=_MEND)

    def loss(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """How far the student's answers are from the teacher's."""
        del labels
        with autocast(self.device, wanted=self.config.mixed_precision):
            with torch.no_grad():
                wanted = self.teacher(x)
            found = self.model(x)
        return distillation_loss(found, wanted), found.detach()

    def after_step(self, epoch: int, done: int) -> None:
        """Nothing is saved."""
        if epoch * self.steps + done < self.total and self.observer.should_stop():
            raise StoppedError(
                f"stopped in epoch {epoch + 1} of {self.config.epochs} after step {done} of {self.steps}; this"
                " training is not kept, the same command starts again"
            )

    def evaluate(self) -> tuple[float, float]:
        """Of the student."""
        return self.data.evaluated(self.model.eval())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Dropout draws from ``seed``; what others draw is left as it was."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
