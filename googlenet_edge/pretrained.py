"""Weights to start a training from: torchvision's ImageNet weights by name, or any checkpoint by path."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from googlenet_edge.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    check_finite,
    check_same_tensors,
    expected_tensors,
    is_auxiliary,
    read_checkpoint,
    read_pth,
)
from googlenet_edge.dataset import Progress
from googlenet_edge.errors import CheckpointError, OutputError, why
from googlenet_edge.files import new_file, sha256_file
from googlenet_edge.preprocess import Preprocess

IMAGENET = "imagenet"
URL = "https://download.pytorch.org/models/googlenet-1378be20.pth"
SHA256_START = "1378be20"  # torchvision names its files by the first eight digits of their SHA-256
_TIMEOUT_S = 30
_MOST_CLASSES = 100_000


def read_start(weights: str, *, progress: Progress | None = None) -> Checkpoint:
    """The weights to begin with.

    Args:
        weights: ``imagenet``, or the path of a ``.safetensors`` checkpoint or of a ``.pth`` state dict of GoogLeNet.

    Raises:
        CheckpointError: cannot be had, damaged, of another architecture, or with NaN.
    """
    if weights == IMAGENET:
        return _from_pth(imagenet_file(progress=progress))
    path = Path(weights)
    return _from_pth(path) if path.suffix in {".pth", ".pt"} else read_checkpoint(path)


def imagenet_file(*, url: str = URL, progress: Progress | None = None) -> Path:
    """torchvision's weights in the cache of torch, downloaded once and checked every time.

    Raises:
        CheckpointError: cannot be downloaded, or the file is another one.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        _download(url, path, progress)
    _check_hash(path, mend="remove it")
    return path


def _check_hash(path: Path, *, mend: str) -> None:
    found = sha256_file(path)[: len(SHA256_START)]
    if found != SHA256_START:
        raise CheckpointError(
            f"{path} is not torchvision's file: its SHA-256 begins with {found}, expected {SHA256_START}; {mend}"
        )


def _download(url: str, path: Path, progress: Progress | None) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, new_file(path) as part:
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            with part.open("wb") as file:
                while piece := _received(response, url, path):
                    done += file.write(piece)
                    if progress:
                        progress(done, total)
            _check_hash(part, mend="the connection may have broken, try again")
    except OutputError as problem:
        raise CheckpointError(f"{str(problem).partition(';')[0]}; name another folder in TORCH_HOME") from problem
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as problem:
        raise _not_downloaded(url, path, getattr(problem, "reason", problem)) from problem


def _received(response: IO[bytes], url: str, path: Path) -> bytes:
    """The next piece; a broken connection is no fault of the disk that the pieces go to."""
    try:
        return response.read(1 << 20)
    except OSError as problem:
        raise _not_downloaded(url, path, problem) from problem


def _not_downloaded(url: str, path: Path, reason: object) -> CheckpointError:
    said = f"{url} cannot be downloaded ({why(reason)})"
    return CheckpointError(f"{said}; fetch it on another machine and put it at {path}")


def _from_pth(path: Path) -> Checkpoint:
    """A state dict as torchvision writes it, with or without auxiliary heads; its classes have no names."""
    weights = read_pth(path)
    weights.update({n: torch.zeros((), dtype=torch.int64) for n in _missing_counters(weights)})
    aux_heads = any(is_auxiliary(name) for name in weights)
    names = tuple(f"class {i}" for i in range(_rows(weights, "fc.weight", path)))
    kernel = weights.get("inception3a.branch3.1.conv.weight", torch.empty(0)).shape[-1:]
    info = CheckpointInfo(names, Preprocess(), true_5x5=tuple(kernel) == (5,), aux_heads=aux_heads)
    check_same_tensors(weights, expected_tensors(info), str(path))
    check_finite(weights, path)
    return Checkpoint(info, weights, sha256_file(path))


def _missing_counters(weights: dict[str, Tensor]) -> list[str]:
    """Files from before PyTorch 0.4.1 do not count batches."""
    counters = (name.replace("running_mean", "num_batches_tracked") for name in weights if "running_mean" in name)
    return [name for name in counters if name not in weights]


def _rows(weights: dict[str, Tensor], name: str, path: Path) -> int:
    if name not in weights or weights[name].ndim != 2:
        raise CheckpointError(f"{path} is of another architecture: {name} is missing")
    if len(weights[name]) > _MOST_CLASSES:
        raise CheckpointError(
            f"{path} has {len(weights[name])} classes where at most {_MOST_CLASSES} are expected; use another file"
        )
    return len(weights[name])
