"""A checkpoint of this package as what a build starts from: the one source that needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from googlenet_edge import __version__
from googlenet_edge.checkpoint import Checkpoint, read_checkpoint
from googlenet_edge.dataset import Bars, Checked, WhenDamaged, open_dataset
from googlenet_edge.engines.evaluate import check_same_classes
from googlenet_edge.engines.source import Origin
from googlenet_edge.export import check_parity, export
from googlenet_edge.graph import DEFAULT_OPSET, InferenceGraph
from googlenet_edge.train import check_training_data
from googlenet_edge.training_loop import MAYBE_SEEN, TrainingData


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint; what is made from it goes beside it."""

    path: Path
    opset: int = DEFAULT_OPSET

    @property
    def folder(self) -> Path:
        """Where the checkpoint is."""
        return self.path.parent

    @property
    def elsewhere(self) -> str:
        """They go with the checkpoint."""
        return "a copy of the network in another folder"

    def open(self, folder_names: tuple[str, ...]) -> Origin:
        """Reads it; it has class names of its own. Raises `CheckpointError`."""
        del folder_names
        source = read_checkpoint(self.path)
        return _CheckpointOrigin(source.info.class_names, source.info.preprocess, source.sha256, source, self.opset)


@dataclass(frozen=True)
class _CheckpointOrigin(Origin):
    source: Checkpoint
    opset: int

    def make(self) -> InferenceGraph:
        return export(self.source, opset=self.opset)

    def made(self, graph: InferenceGraph) -> bool:
        return (graph.parent_sha256, graph.model.producer_version) == (self.source.sha256, __version__)

    def check(self, graph: InferenceGraph, pixels: NDArray[np.uint8]) -> float:
        return check_parity(graph, self.source, graph.preprocess.normalize(pixels))

    def doubts(self, val: Checked) -> tuple[str, ...]:
        record = self.source.info.training
        if record is None or record.val_images_sha256 == val.sha256:
            return ()
        return (MAYBE_SEEN,)


def images_for(
    checkpoint: Checkpoint, folder: Path, *, seed: int, when_damaged: WhenDamaged, bars: Bars
) -> TrainingData:
    """What a checkpoint goes on learning from: the images of a folder, each decoded once, its classes in its order.

    Args:
        seed: splits a folder that has no ``train`` and ``val``.
        when_damaged: `refuse_damaged` or `without_damaged`.

    Raises:
        DataError, DamagedImageError: see `check_same_classes`, `check_training_data`.
    """
    info = checkpoint.info
    check_same_classes(info.class_names, open_dataset(folder, seed=seed).train)
    with bars("checking images") as progress:
        data = check_training_data(
            folder, preprocess=info.preprocess, seed=seed, when_damaged=when_damaged, progress=progress
        )
    return data.after(checkpoint)
