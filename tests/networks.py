"""Small GoogLeNets with weights that are made, not trained."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo
from googlenet_edge.model import GoogLeNet, GoogLeNetConfig, InceptionWidths, Widths
from googlenet_edge.preprocess import Preprocess

PAPER = Widths()
NARROW = Widths(3, 4, 5, *(InceptionWidths(2, (3, 4), (2, 3), 2) for _ in range(9)))
SMALL = Widths(24, 24, 24, *(InceptionWidths(24, (24, 24), (24, 24), 24) for _ in range(9)))


def made_weights(config: GoogLeNetConfig, *, seed: int) -> dict[str, Tensor]:
    """Every tensor from its name, of realistic size: the recipe of the reference outputs."""
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in GoogLeNet(config).state_dict().items()}
    return {name: _made(name, shape, seed) for name, shape in shapes.items()}


def _made(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    count = int(np.prod(shape))
    if name.endswith("running_var"):
        value = 0.5 + random.random(count)
    elif name.endswith("bn.weight"):
        value = 0.8 + 0.4 * random.random(count)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * random.standard_normal(count)
    else:
        value = random.standard_normal(count) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32).reshape(shape))


def made_checkpoint(
    *, classes: int = 4, crop: int = 32, true_5x5: bool = False, widths: Widths = PAPER, seed: int = 1
) -> Checkpoint:
    """A whole checkpoint, with auxiliary heads."""
    config = GoogLeNetConfig(classes, true_5x5=true_5x5, widths=widths)
    names = tuple(f"class {i}" for i in range(classes))
    info = CheckpointInfo(names, Preprocess(resize=crop, crop=crop), true_5x5=true_5x5, widths=widths)
    return Checkpoint(info, made_weights(config, seed=seed))


def normalized_noise(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def imagenet_normalization(preprocess: Preprocess) -> Preprocess:
    """The same geometry with torchvision's ImageNet mean and standard deviation, for networks trained with those."""
    return Preprocess(
        resize=preprocess.resize,
        crop=preprocess.crop,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
    )
