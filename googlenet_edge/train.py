"""A training from a folder of images to a checkpoint file: check the images, start or resume, train, write."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo, write_checkpoint
from googlenet_edge.dataset import (
    KEPT_BYTES,
    Checked,
    ImageSet,
    Progress,
    WhenDamaged,
    check_images,
    load_pixels,
    open_dataset,
    refuse_damaged,
    require_every_class,
    ticker,
)
from googlenet_edge.descent import batch_size_for
from googlenet_edge.errors import ConfigError
from googlenet_edge.files import alone_in, check_file_place, check_writable, real_path
from googlenet_edge.model import Widths
from googlenet_edge.parallel import Rank
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.reports import Observer, refuse_another_s_lines
from googlenet_edge.training_loop import TrainingData, train_from
from googlenet_edge.training_state import (
    TrainConfig,
    TrainingState,
    check_same_config,
    check_same_training,
    first_state,
    read_state,
)
from googlenet_edge.workspace import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    STATE_FILE,
    RunRecord,
    refuse_another_s_run,
    refuse_inside_bundle,
    write_run_record,
)

_log = logging.getLogger(__name__)
_FIRST = "conv1.conv.weight"
_WHITENED_IMAGES = 500
_PATCH_STRIDE = 4


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on, how, and where the results go.

    ``start``: weights to begin with, else random ones; the network gets the widths of theirs.
    """

    data: Path
    folder: Path
    preprocess: Preprocess = field(default_factory=Preprocess)
    config: TrainConfig = field(default_factory=TrainConfig)
    true_5x5: bool = False
    start: Checkpoint | None = None
    workers: int = 2


def train(
    request: TrainRequest,
    *,
    observer: Observer,
    rank: Rank,
    when_damaged: WhenDamaged = refuse_damaged,
    progress: Progress | None = None,
) -> Path:
    """Trains, or goes on with a training that was interrupted, and writes ``folder/checkpoint.safetensors``.

    Args:
        when_damaged: `refuse_damaged` or `without_damaged`.
        progress: told how many images are checked.

    Raises:
        DataError, TrainingError, OutputError: see there.
        ConfigError: the folder has a finished checkpoint or what somebody else wrote, or another training writes into
            it.
        StoppedError: the observer asked to stop; the state is saved.
    """
    path = request.folder / CHECKPOINT_FILE
    refuse_inside_bundle(path)
    _refuse_among_images(request)
    _refuse_finished(path)
    if not (request.folder / STATE_FILE).exists():
        refuse_another_s_run(request.folder)
        refuse_another_s_lines(request.folder / METRICS_FILE)
    check_writable(path)
    check_file_place(request.folder / STATE_FILE)
    if saved := read_state(request.folder):  # before all images are decoded
        check_same_config(saved.config, request.config, request.folder)
    data = _data(request, when_damaged, progress)
    widths = request.start.info.widths if request.start else Widths()
    info = CheckpointInfo(data.train.class_names, request.preprocess, request.true_5x5, widths=widths)
    batch_size = batch_size_for(request.config.batch_size, len(data.train), processes=rank.world)
    state = first_state(
        info, request.config, images_sha256=data.train_sha256, batch_size=batch_size, start=request.start
    )
    with alone_in(request.folder, error=ConfigError) if rank.first else nullcontext():
        _refuse_finished(path)
        if saved := read_state(request.folder):
            check_same_training(saved, state, request.folder)
            state = saved
            if saved.epoch < saved.config.epochs:
                observer.on_resume(saved.epoch + 1, saved.step)
        elif request.start is None:
            state = dirac_initialized(whitened(state, data.train, request.preprocess))
        if rank.first:
            write_run_record(request.folder, RunRecord(str(real_path(request.data)), request.config.seed))
        trained = train_from(state, data, folder=request.folder, rank=rank, observer=observer, workers=request.workers)
        if rank.first:
            write_checkpoint(path, trained)
            (request.folder / STATE_FILE).unlink(missing_ok=True)
    return path


def _data(request: TrainRequest, when_damaged: WhenDamaged, progress: Progress | None) -> TrainingData:
    config, preprocess = request.config, request.preprocess
    data = check_training_data(
        request.data, preprocess=preprocess, seed=config.seed, when_damaged=when_damaged, progress=progress
    )
    return data.after(request.start) if request.start else data


def _refuse_among_images(request: TrainRequest) -> None:
    """There the folder of the results would be taken for a class of images."""
    split = request.data / "train", request.data / "val"
    for images in split if split[0].is_dir() else (request.data,):
        place, root = real_path(request.folder), real_path(images)
        if place.is_relative_to(root) and not "".join(place.relative_to(root).parts[:1]).startswith("."):
            raise ConfigError(
                f"{request.folder} is inside of {images}, where each folder is a class of images; give another --out"
            )


def _refuse_finished(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} is there already; give another --out")


def check_training_data(
    folder: Path, *, preprocess: Preprocess, seed: int, when_damaged: WhenDamaged, progress: Progress | None
) -> TrainingData:
    """The images of a folder, each decoded once. ``seed`` splits a folder that has no ``train`` and ``val``.

    Args:
        when_damaged: `refuse_damaged` or `without_damaged`.
        progress: told how many images are checked.

    Raises:
        DataError, DamagedImageError: see `open_dataset` and ``when_damaged``.
    """
    dataset = open_dataset(folder, seed=seed)
    tick = ticker(len(dataset.train) + len(dataset.val), progress)

    def checked(images: ImageSet, *, kept_bytes: int = 0) -> Checked:
        found = check_images(images, preprocess=preprocess, kept_bytes=kept_bytes, progress=lambda *_: tick())
        require_every_class(when_damaged(found))
        return found

    train_set, val_set = checked(dataset.train), checked(dataset.val, kept_bytes=KEPT_BYTES)
    if twice := train_set.files.keys() & val_set.files.keys():
        first = min(val_set.files[sha256] for sha256 in twice)
        _log.warning("training has %d of the validation images, too, such as %s; remove one of each", len(twice), first)
    hashes = train_set.sha256, val_set.sha256
    return TrainingData(train_set.images, val_set.images, *hashes, preprocess, kept=val_set.kept)


def whitened(state: TrainingState, images: ImageSet, preprocess: Preprocess) -> TrainingState:
    """``state`` with filters of the first convolution that whiten patches of at most 500 images, from all classes.

    Neighbouring pixels are alike, so random filters answer almost alike, and training has to tell them apart. The main
    directions in which patches differ are apart from the start; each is there with both signs, because a ReLU follows.
    They are as long as the random filters in the mean. Raises `DamagedImageError`.

    Source: Page, "How to Train Your ResNet 8", and Jordan, arXiv 2404.00498, section 3.2. There these filters stay as
    they are; here they are trained like all others.
    """
    random = state.weights[_FIRST]
    cout, _, kernel, _ = random.shape
    some = images.take(range(0, len(images), -(-len(images) // _WHITENED_IMAGES)))
    directions = torch.linalg.eigh(_second_moments(some, preprocess, kernel)).eigenvectors.t().flip(0)
    half = directions[: (cout + 1) // 2]
    filters = torch.cat([half, -half])[:cout].float() * random.flatten(1).norm(dim=1).mean()
    weights = {**state.weights, _FIRST: filters.view_as(random)}
    return replace(state, weights=weights, average=weights)


def dirac_initialized(state: TrainingState) -> TrainingState:
    """``state`` with kernels ``(cout, cin, k, k)`` whose first ``cin`` filters hand on one channel each, as it is.

    Where there are so many filters, that is: of the second convolution and of the 3×3 and 5×5 kernels. The others stay
    random, and the first convolution what it is. What these layers are given reaches the next from the start.

    Source: Jordan, arXiv 2404.00498, section 3.3.
    """
    weights = {name: tensor.clone() for name, tensor in state.weights.items()}
    for name, kernel in weights.items():
        if kernel.ndim == 4 and name != _FIRST and kernel.shape[0] >= kernel.shape[1]:
            nn.init.dirac_(kernel[: kernel.shape[1]])
    return replace(state, weights=weights, average=weights)


def _second_moments(images: ImageSet, preprocess: Preprocess, kernel: int) -> Tensor:
    """float64 ``(3 × kernel², 3 × kernel²)``: sums over patches of the products of any two of their values."""
    size = len(preprocess.mean) * kernel**2
    sums = torch.zeros(size, size, dtype=torch.float64)
    for pixels in load_pixels(images, preprocess):
        x = torch.from_numpy(preprocess.normalize(pixels[None]))
        patches = F.unfold(x, kernel, padding=kernel // 2, stride=_PATCH_STRIDE)[0].double()
        sums += patches @ patches.t()
    return sums
