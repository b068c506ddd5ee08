"""Pruning takes the auxiliary heads and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import made_checkpoint

from googlenet_edge.checkpoint import build_model, read_checkpoint, write_checkpoint
from googlenet_edge.errors import CheckpointError
from googlenet_edge.export import prune


def test_prune_keeps_every_logit_bit_for_bit_through_the_disk(tmp_path: Path) -> None:
    checkpoint = made_checkpoint(classes=6)
    write_checkpoint(tmp_path / "pruned.safetensors", prune(checkpoint).checkpoint)
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(
            build_model(checkpoint)(images), build_model(read_checkpoint(tmp_path / "pruned.safetensors"))(images)
        )


def test_prune_counts_what_the_literature_counts() -> None:
    """torchvision's documentation: 6,624,904 parameters without auxiliary heads, 1.50 billion multiply-accumulates."""
    checkpoint = made_checkpoint(classes=1000)
    info = replace(checkpoint.info, preprocess=replace(checkpoint.info.preprocess, resize=224, crop=224))
    pruned = prune(replace(checkpoint, info=info))
    assert pruned.after.parameters == 6_624_904
    assert pruned.before.parameters == 13_004_888
    assert round(pruned.after.macs / 1e9, 2) == 1.5
    assert pruned.after.flops == 2 * pruned.after.macs
    assert pruned.before.macs > pruned.after.macs


def test_prune_of_a_pruned_checkpoint_says_so() -> None:
    pruned = prune(made_checkpoint()).checkpoint
    with pytest.raises(CheckpointError, match="no auxiliary heads any more; there is nothing to prune"):
        prune(pruned)
