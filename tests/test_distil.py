"""Distillation: the loss, what it does to a student, and how it ends."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import made_checkpoint
from torch import Tensor, nn
from watching import Watching

from googlenet_edge.augment import Augmentation
from googlenet_edge.checkpoint import TrainingRecord
from googlenet_edge.dataset import load_pixels, refuse_damaged
from googlenet_edge.distil import DistilConfig, as_trained, distil, distillation_loss
from googlenet_edge.errors import TrainingError
from googlenet_edge.pictograms import write_pictograms
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.reports import StoppedError
from googlenet_edge.train import check_training_data
from googlenet_edge.training_loop import TrainingData

PREPROCESS = Preprocess(resize=32, crop=32)
CONFIG = DistilConfig(epochs=4, batch_size=16, learning_rate=0.1, augmentation=Augmentation(flip=False))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    folder = tmp_path_factory.mktemp("work") / "photos"
    write_pictograms(folder, train_per_class=4, val_per_class=1, size=32)
    return check_training_data(folder, preprocess=PREPROCESS, seed=0, when_damaged=refuse_damaged, progress=None)


def network(*, seed: int) -> nn.Module:
    """Small, with all that differs between training and evaluation."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 12),
    ).eval()


def run(student: nn.Module, data: TrainingData, config: DistilConfig, watching: Watching | None = None) -> None:
    distil(student, network(seed=1), data, config, observer=watching or Watching(), workers=0)


def divergence(student: nn.Module, teacher: nn.Module, data: TrainingData) -> float:
    x = torch.from_numpy(PREPROCESS.normalize(np.stack(list(load_pixels(data.train, PREPROCESS)))))
    with torch.no_grad():
        found, wanted = (F.log_softmax(model(x), dim=1) for model in (student, teacher))
    return float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))


def test_distillation_brings_the_student_to_the_teacher(data: TrainingData) -> None:
    student, teacher = network(seed=2), network(seed=1)
    before, kept = divergence(student, teacher, data), copy.deepcopy(teacher.state_dict())
    distil(student, teacher, data, replace(CONFIG, epochs=20), observer=Watching(), workers=0)
    assert divergence(student, teacher, data) < before / 5
    assert all(torch.equal(kept[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not torch.equal(student.state_dict()["1.running_mean"], torch.zeros(16)), "it is taught as in training"
    assert not student.training


def test_loss_is_the_softened_divergence() -> None:
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(0, 3, (4, 5)), draw.normal(0, 3, (4, 5))

    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    p, q = softmax(teacher / 2), softmax(student / 2)
    softened = 4 * (p * np.log(p / q)).sum(axis=1).mean()
    assert distillation_loss(torch.tensor(student), torch.tensor(teacher)).item() == pytest.approx(softened, rel=1e-5)


def test_loss_of_a_student_that_follows_is_zero() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    loss = distillation_loss(logits, logits.detach())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (loss.item(), gradient.abs().max().item()) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_distillation_depends_on_its_seed_alone_and_leaves_other_draws_alone(data: TrainingData) -> None:
    def taught(*, seed: int, others: int) -> Tensor:
        student, teacher = network(seed=2), network(seed=1)
        torch.manual_seed(others)
        distil(student, teacher, data, replace(CONFIG, seed=seed), observer=Watching(), workers=0)
        drawn = torch.rand(3)
        torch.manual_seed(others)
        assert torch.equal(drawn, torch.rand(3))
        return torch.cat([p.detach().flatten() for p in student.parameters()])

    assert torch.equal(taught(seed=0, others=3), taught(seed=0, others=4))
    assert not torch.equal(taught(seed=0, others=3), taught(seed=1, others=3))


def test_student_sees_images_changed_as_its_teacher_saw_them() -> None:
    """Signs that a training must not mirror, `slim` and `finetune` must not either."""
    teacher = made_checkpoint().info
    config = DistilConfig(epochs=2)
    assert as_trained(config, teacher) == config, "an older file says nothing of it"
    record = TrainingRecord(3, 100, "", "", 0.5, 0.9, 1.0, augmentation=Augmentation(0.7, flip=False))
    known = as_trained(config, replace(teacher, training=record))
    assert known == replace(config, augmentation=Augmentation(0.7, flip=False))


def test_distillation_tells_of_steps_and_epochs(data: TrainingData) -> None:
    watching = Watching()
    run(network(seed=2), data, CONFIG, watching)
    assert [(report.epoch, report.step, report.steps) for report in watching.steps] == [
        (epoch, step, 3) for epoch in (1, 2, 3, 4) for step in (1, 3)
    ]
    assert [report.epoch for report in watching.epochs] == [1, 2, 3, 4]
    assert watching.steps[-1].remaining_s == 0
    assert watching.epochs[-1].loss < watching.epochs[0].loss
    assert 0 <= watching.epochs[-1].val_top1 <= watching.epochs[-1].val_top5 <= 1
    assert watching.epochs[-1].learning_rate < CONFIG.learning_rate / 10


def test_distillation_that_is_stopped_says_that_it_starts_again(data: TrainingData) -> None:
    sentence = r"stopped in epoch 2 of 4 after step 1 of 3; this training is not kept, the same command starts again"
    with pytest.raises(StoppedError, match=sentence):
        run(network(seed=2), data, CONFIG, Watching(stop_after=4))


def test_distillation_gives_up_where_the_loss_is_not_finite(data: TrainingData) -> None:
    with pytest.raises(
        TrainingError, match="the loss is (nan|inf) at step .*; start again with a lower --learning-rate$"
    ):
        run(network(seed=2), data, replace(CONFIG, learning_rate=1e30))


def test_distillation_refuses_settings_that_make_no_sense() -> None:
    for rate in (0.0, -0.1, math.inf, math.nan):
        with pytest.raises(TrainingError, match=rf"^the learning rate is {rate}; it must be above zero$"):
            replace(CONFIG, learning_rate=rate)
