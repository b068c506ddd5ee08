"""Removing the auxiliary heads: training needs them, inference does not, and the logits prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from googlenet_edge.checkpoint import Checkpoint, build_model, is_auxiliary
from googlenet_edge.errors import CheckpointError
from googlenet_edge.model import GoogLeNet

_PROOF_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Learned parameters, and multiply-accumulates of the convolutions and matrices for one image."""

    parameters: int
    macs: int

    @property
    def flops(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.macs


@dataclass(frozen=True, slots=True)
class Pruned:
    """A checkpoint without auxiliary heads, and what they cost."""

    checkpoint: Checkpoint
    before: Cost
    after: Cost


def prune(checkpoint: Checkpoint) -> Pruned:
    """Drops the auxiliary heads and proves, on random images, that every main logit is the same bit for bit.

    Raises:
        CheckpointError: it has none any more, or a logit differs.
    """
    if not checkpoint.info.aux_heads:
        raise CheckpointError("the checkpoint has no auxiliary heads any more; there is nothing to prune")
    weights = {name: tensor for name, tensor in checkpoint.weights.items() if not is_auxiliary(name)}
    pruned = Checkpoint(replace(checkpoint.info, aux_heads=False), weights)
    whole, lean = build_model(checkpoint), build_model(pruned)
    crop = checkpoint.info.preprocess.crop
    images = torch.rand((_PROOF_IMAGES, 3, crop, crop), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        same = torch.equal(whole.forward_with_aux(images).logits, lean(images))
    if not same:
        raise CheckpointError("the logits changed when the auxiliary heads were dropped; please report this")
    return Pruned(pruned, training_cost(whole, crop), inference_cost(whole, crop))


def training_cost(model: GoogLeNet, crop: int) -> Cost:
    """With both auxiliary heads."""
    return Cost(_count(model), _macs(model, model.forward_with_aux, crop))


def inference_cost(model: GoogLeNet, crop: int) -> Cost:
    """Without them."""
    heads = _count(model.aux1) + _count(model.aux2)
    return Cost(_count(model) - heads, _macs(model, model, crop))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _macs(model: nn.Module, forward: Callable[[Tensor], object], crop: int) -> int:
    """Counted while one image passes: weights of a filter × places where it is put."""
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += module.weight[0].numel() * output.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.inference_mode():
            forward(torch.zeros(1, 3, crop, crop))
    finally:
        for hook in hooks:
            hook.remove()
    return total
