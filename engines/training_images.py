"""The images that a checkpoint goes on learning from."""

from __future__ import annotations

from pathlib import Path

from googlenet_edge.checkpoint import CheckpointInfo
from googlenet_edge.dataset import WhenDamaged, open_dataset
from googlenet_edge.engines.evaluate import check_same_classes
from googlenet_edge.engines.recovery import Bars
from googlenet_edge.train import check_training_data
from googlenet_edge.training_loop import TrainingData


def images_for(info: CheckpointInfo, folder: Path, *, seed: int, when_damaged: WhenDamaged, bars: Bars) -> TrainingData:
    """The images of a folder, each decoded once, with the classes of a checkpoint in its order.

    Args:
        seed: splits a folder that has no ``train`` and ``val``.
        when_damaged: `refuse_damaged` or `without_damaged`.

    Raises:
        DataError, DamagedImageError: see `check_same_classes`, `check_training_data`.
    """
    check_same_classes(info.class_names, open_dataset(folder, seed=seed).train)
    with bars("checking images") as progress:
        return check_training_data(
            folder, preprocess=info.preprocess, seed=seed, when_damaged=when_damaged, progress=progress
        )
