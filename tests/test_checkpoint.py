"""Checkpoints come back as they were written, and what is no GoogLeNet is refused by name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import made_checkpoint
from safetensors.torch import save_file

from googlenet_edge.checkpoint import Checkpoint, TrainingRecord, read_checkpoint, read_pth, write_checkpoint
from googlenet_edge.errors import CheckpointError
from googlenet_edge.files import sha256_file


def test_checkpoint_survives_the_disk(tmp_path: Path) -> None:
    record = TrainingRecord(3, 100, "a" * 64, "b" * 64, 0.5, 0.9, 12.5)
    checkpoint = made_checkpoint(true_5x5=True)
    checkpoint = replace(checkpoint, info=replace(checkpoint.info, training=record))
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, checkpoint)
    found = read_checkpoint(path)
    assert found.info == checkpoint.info
    assert found.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in checkpoint.weights.items())
    assert found.sha256 == sha256_file(path)


def change(checkpoint: Checkpoint, **tensors: torch.Tensor) -> Checkpoint:
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return replace(checkpoint, weights={**checkpoint.weights, **named})


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"fc__weight": torch.zeros(4, 7)}, r"fc.weight has the shape \(4, 7\) where \(4, 1024\) is expected"),
        ({"layer1__0__conv1__weight": torch.zeros(1)}, "layer1.0.conv1.weight is not part of GoogLeNet"),
        ({"fc__bias": torch.full((4,), torch.nan)}, "has NaN or infinity in fc.bias; its training failed"),
        ({"conv1__bn__running_var": torch.full((64,), torch.inf)}, "has NaN or infinity in conv1.bn.running_var"),
    ],
)
def test_checkpoint_refuses_other_networks(tmp_path: Path, tensors: dict[str, torch.Tensor], sentence: str) -> None:
    write_checkpoint(tmp_path / "c.safetensors", change(made_checkpoint(), **tensors))
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_refuses_a_missing_tensor(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    del checkpoint.weights["inception4b.branch2.1.conv.weight"]
    write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    with pytest.raises(CheckpointError, match="another architecture: inception4b.branch2.1.conv.weight is missing"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_refuses_a_newer_schema(tmp_path: Path) -> None:
    checkpoint = made_checkpoint()
    write_checkpoint(tmp_path / "c.safetensors", replace(checkpoint, info=replace(checkpoint.info, schema=99)))
    with pytest.raises(CheckpointError, match="has schema 99, this version reads up to 1; upgrade googlenet-edge"):
        read_checkpoint(tmp_path / "c.safetensors")


def test_checkpoint_refuses_somebody_elses_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="was not written by gnet-edge train"):
        read_checkpoint(tmp_path / "c.safetensors")


class _Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pth_runs_no_code(tmp_path: Path) -> None:
    evil, trace = tmp_path / "evil.pth", tmp_path / "trace"
    evil.write_bytes(pickle.dumps(_Evil(trace)))
    with pytest.raises(CheckpointError, match="is not a state dict that can be read safely"):
        read_pth(evil)
    assert not trace.exists()


def test_pth_refuses_what_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds something else than a state dict of tensors"):
        read_pth(tmp_path / "list.pth")
