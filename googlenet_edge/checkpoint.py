"""A trained network in one safetensors file: weights, class names, preprocessing, and how it was trained."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from googlenet_edge.augment import Augmentation
from googlenet_edge.errors import CheckpointError, why
from googlenet_edge.files import from_versioned_json, sha256_file, to_json, write_bytes
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig, Widths
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.workspace import STATE_FILE

METADATA_KEY = "googlenet_edge"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SCHEMA = 1
_LEAST_CROP = 32
_MOST_PTH_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a checkpoint came to be. Accuracies are shares (0…1) of the validation images, in FP32.

    ``parent_sha256`` is the hash of the checkpoint whose weights it began with, or empty; the rest then tells of what
    came after that alone. ``val_images_sha256`` is empty where those weights may have been trained on some of the
    images. ``augmentation`` is missing in older files.
    """

    epochs: int
    images: int
    images_sha256: str
    val_images_sha256: str
    val_top1: float
    val_top5: float
    seconds: float
    parent_sha256: str = ""
    augmentation: Augmentation | None = None


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Everything but the weights. Files from before networks were slimmed have no ``widths``: those of the paper."""

    class_names: Annotated[tuple[str, ...], Meta(min_length=1)]
    preprocess: Preprocess
    true_5x5: bool = False
    aux_heads: bool = True
    training: TrainingRecord | None = None
    schema: int = SCHEMA
    widths: Widths = field(default_factory=Widths)

    def model_config(self) -> GoogLeNetConfig:
        """The network that the weights belong to."""
        return GoogLeNetConfig(len(self.class_names), true_5x5=self.true_5x5, widths=self.widths)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's state dict (float32, and int64 ``num_batches_tracked``) with its information.

    ``sha256`` is that of the file it was read from, or empty.
    """

    info: CheckpointInfo
    weights: dict[str, Tensor]
    sha256: str = field(default="", compare=False)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes one file in one step. Raises `OutputError`."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    write_bytes(path, save(weights, metadata={METADATA_KEY: to_json(checkpoint.info).decode()}))


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint that this package wrote.

    Raises:
        CheckpointError: missing, damaged, of another architecture, with NaN or infinity, or of a newer version.
    """
    metadata, weights = read_safetensors(path)
    if path.name == STATE_FILE:
        raise CheckpointError(f"{path} is a training that is not finished; go on with it by the same gnet-edge train")
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} was not written by gnet-edge train; it has no class names and no preprocessing")
    data, where = metadata[METADATA_KEY].encode(), f"the metadata of {path}"
    info = from_versioned_json(data, CheckpointInfo, schema=SCHEMA, where=where, error=CheckpointError)
    if info.preprocess.crop < _LEAST_CROP:
        raise CheckpointError(
            f"{path} is for images of {info.preprocess.crop} pixels, {_LEAST_CROP} or more are needed; use another"
        )
    checkpoint = Checkpoint(info, weights, sha256_file(path))
    build_model(checkpoint, where=str(path))
    check_finite(weights, path)
    return checkpoint


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """(metadata, tensors) of any safetensors file. Raises `CheckpointError`."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint in it, such as checkpoint.safetensors")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; train first with: gnet-edge train --data DIR")
    if path.suffix == ".onnx":
        raise CheckpointError(
            f"{path} is a graph where a checkpoint is wanted; to make a bundle of it: gnet-edge build --onnx {path}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as problem:
        raise CheckpointError(
            f"{path} is no checkpoint, or not a whole one ({problem}); copy or train it again"
        ) from problem


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` state dict, read without running any code in it. Raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; give the file of a state dict")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_PTH_BYTES:
            raise CheckpointError(
                f"{path} holds {size} bytes where at most {_MOST_PTH_BYTES} are expected; use another file"
            )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # torch raises UnpicklingError, RuntimeError, EOFError, KeyError … for damaged files
        raise CheckpointError(f"{path} is not a state dict that can be read safely ({why(problem)})") from problem
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} holds something else than a state dict of tensors")
    return {str(name): tensor for name, tensor in state.items()}


def build_model(checkpoint: Checkpoint, *, where: str = "the checkpoint") -> GoogLeNet:
    """The network with the checkpoint's weights, in eval mode.

    A pruned checkpoint gives a network whose auxiliary heads have random weights; inference does not use them.

    Raises:
        CheckpointError: names the first tensor that is missing, not expected, or of another shape.
    """
    info = checkpoint.info
    check_same_tensors(checkpoint.weights, expected_tensors(info), where)
    model = GoogLeNet(info.model_config())
    model.load_state_dict(checkpoint.weights, strict=info.aux_heads)
    return model.eval()


def expected_tensors(info: CheckpointInfo) -> dict[str, Tensor]:
    """Tensors of the names and shapes that a checkpoint must have, without memory behind them."""
    with torch.device("meta"):
        state = GoogLeNet(info.model_config()).state_dict()
    return {name: tensor for name, tensor in state.items() if info.aux_heads or not is_auxiliary(name)}


def is_auxiliary(name: str) -> bool:
    """Whether a tensor belongs to an auxiliary head."""
    return name.startswith(("aux1.", "aux2."))


def check_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Raises `CheckpointError` unless names, shapes and kinds of numbers are equal."""
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{where} is of another architecture: {name} is missing")
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
            raise CheckpointError(f"{where} is of another architecture: {name} has the shape {shapes}")
        if not _holds_numbers(found[name], like=tensor):
            kind = f"{found[name].dtype}, {found[name].layout}, {found[name].device.type}"
            raise CheckpointError(f"{where} has {name} as {kind}, not as a plain {tensor.dtype}; save it so")
    for name in found:
        if name not in expected:
            raise CheckpointError(f"{where} is of another architecture: {name} is not part of GoogLeNet")


def _holds_numbers(tensor: Tensor, *, like: Tensor) -> bool:
    """Whether it has numbers that every computation takes: whole ones, or floating ones of any usual precision."""
    kinds = _FLOATS if like.is_floating_point() else (like.dtype,)
    return tensor.dtype in kinds and tensor.layout is torch.strided and not tensor.is_meta


def check_finite(weights: dict[str, Tensor], where: Path) -> None:
    """Raises `CheckpointError` where a weight is NaN or infinite, or a variance negative."""
    for name, tensor in weights.items():
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{where} has a negative variance in {name}; it is damaged, use another one")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where} has NaN or infinity in {name}; its training failed, use an earlier one")
