"""What training was told, and everything it needs to go on after it was stopped or killed, in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo, check_same_tensors, expected_tensors, read_safetensors
from googlenet_edge.descent import DescentConfig
from googlenet_edge.errors import TrainingError
from googlenet_edge.files import from_versioned_json, to_json, write_bytes
from googlenet_edge.model import GoogLeNet
from googlenet_edge.statistics import Tally
from googlenet_edge.workspace import STATE_FILE

METADATA_KEY = "googlenet_edge_training"
SCHEMA = 1
_NO_FILE = "weights of no checkpoint"


@dataclass(frozen=True, slots=True)
class TrainConfig(DescentConfig):
    """``plain_epochs``: how many epochs at the end are `Epoch.plain`."""

    plain_epochs: Tally = 0

    def __post_init__(self) -> None:
        DescentConfig.__post_init__(self)
        if self.plain_epochs > self.epochs:
            raise TrainingError(f"{self.plain_epochs} plain epochs are more than all {self.epochs}; take fewer")


@dataclass(frozen=True, slots=True)
class _Header:
    """The part of the state that is no tensor."""

    info: CheckpointInfo
    config: TrainConfig
    images_sha256: str
    epoch: Tally = 0
    step: Tally = 0
    seconds: float = 0.0
    start: str = ""
    batch_size: int = 0
    scaling: dict[str, int | float] = field(default_factory=dict)
    sums: tuple[float, float] = (0.0, 0.0)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState(_Header):
    """A moment of training, between two steps. ``epoch`` and ``step`` count what is done.

    ``weights`` are those being trained, ``average`` their moving average, ``momentum`` the optimizer's buffers by
    parameter name, ``generator`` the state of the random draws of dropout. ``start`` is the hash of the checkpoint that
    it began with; empty where it began at random. ``batch_size`` is that of all processes as it came to be, ``scaling``
    the state of loss scaling, ``sums`` the losses and the shares of right answers of the epoch's steps, added up,
    the mean of all processes.
    """

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    momentum: dict[str, Tensor] = field(default_factory=dict)
    generator: Tensor | None = None


def first_state(
    info: CheckpointInfo,
    config: TrainConfig,
    *,
    images_sha256: str,
    batch_size: int = 0,
    start: Checkpoint | None = None,
) -> TrainingState:
    """The state before the first step: seeded random weights, or those of ``start`` as far as they fit.

    Classifiers of another number of classes, and auxiliary heads that ``start`` has not, begin at random.

    Raises:
        TrainingError: ``start`` has another kernel in the third branch.
    """
    torch.manual_seed(config.seed)
    weights = GoogLeNet(info.model_config()).state_dict()
    if start is not None:
        if start.info.true_5x5 != info.true_5x5:
            kernel = "5×5" if start.info.true_5x5 else "3×3"
            raise TrainingError(
                f"the weights to start from have {kernel} kernels in the third branch; change --true-5x5"
            )
        fitting = {n: t for n, t in start.weights.items() if n in weights and weights[n].shape == t.shape}
        weights = {**weights, **fitting}
    began = (start.sha256 or _NO_FILE) if start else ""
    return TrainingState(
        info, config, images_sha256, weights=weights, average=weights, start=began, batch_size=batch_size
    )


def write_state(folder: Path, state: TrainingState) -> None:
    """Writes the state in one step. Raises `OutputError`."""
    header = _Header(**{f.name: getattr(state, f.name) for f in fields(_Header)})
    tensors = {
        **{f"weights/{n}": t for n, t in state.weights.items()},
        **{f"average/{n}": t for n, t in state.average.items()},
        **{f"momentum/{n}": t for n, t in state.momentum.items()},
    }
    if state.generator is not None:
        tensors["generator"] = state.generator
    flat = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    write_bytes(folder / STATE_FILE, save(flat, metadata={METADATA_KEY: to_json(header).decode()}))


def read_state(folder: Path) -> TrainingState | None:
    """The saved state, or nothing where there is none.

    Raises:
        CheckpointError: the file is damaged.
        TrainingError: it is not a training state of this version.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    metadata, tensors = read_safetensors(path)
    text = metadata.get(METADATA_KEY, "")
    where = f"the metadata of {path}"
    try:
        header = from_versioned_json(text.encode(), _Header, schema=SCHEMA, where=where, error=TrainingError)
    except TrainingError as problem:
        raise TrainingError(f"{problem}; start anew with another --out") from problem

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    for weights in ("weights/", "average/"):
        check_same_tensors(part(weights), expected_tensors(header.info), str(path))
    return TrainingState(
        **{f.name: getattr(header, f.name) for f in fields(_Header)},
        weights=part("weights/"),
        average=part("average/"),
        momentum=part("momentum/"),
        generator=tensors.get("generator"),
    )


def check_same_training(saved: TrainingState, wanted: TrainingState, folder: Path) -> None:
    """Raises `TrainingError`, naming the difference, where the saved state belongs to other settings or images."""
    check_same_config(saved.config, wanted.config, folder)
    mend = _mend(folder)
    if saved.images_sha256 != wanted.images_sha256:
        raise TrainingError(f"{folder} was being trained on other images; {mend}")
    if saved.batch_size != wanted.batch_size:
        raise TrainingError(
            f"{folder} was being trained in batches of {saved.batch_size}, in so many processes they are of"
            f" {wanted.batch_size}; {mend}"
        )
    if saved.start != wanted.start:
        raise TrainingError(f"{folder} was being trained from other weights; {mend}")
    if saved.info != wanted.info:
        raise TrainingError(f"{folder} was being trained with other classes, preprocessing or network; {mend}")


def check_same_config(saved: TrainConfig, wanted: TrainConfig, folder: Path) -> None:
    """The same, of the settings alone."""
    for before, now in ((saved.augmentation, wanted.augmentation), (saved, wanted)):
        for f in fields(before):
            was, is_ = getattr(before, f.name), getattr(now, f.name)
            if was != is_:
                raise TrainingError(f"{folder} was being trained with {f.name} {was}, now it is {is_}; {_mend(folder)}")


def _mend(folder: Path) -> str:
    return f"give the settings of before, or start anew in another folder than {folder}"
