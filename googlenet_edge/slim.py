"""Slimming: taking channels out of a trained network, and out of everything that reads them.

What is left is a smaller GoogLeNet with the same names. Where the removed channels were always zero its logits are the
same; where they were not, fine-tuning has to find back what they did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from googlenet_edge.channels import BLOCKS, BRANCHES, CLASSIFIER_SOURCES, SOURCES, STEM
from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo, build_model
from googlenet_edge.dataset import ImageSet, Progress, load_pixels
from googlenet_edge.model import GoogLeNet, InceptionWidths, Widths

Kept = Mapping[str, Sequence[int]]
"""The channels that each convolution keeps: their places among its outputs, ascending, at least one."""

_BATCH = 16
_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
_OF_OUTPUTS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def slimmed(checkpoint: Checkpoint, kept: Kept) -> Checkpoint:
    """The checkpoint with nothing but the channels that are ``kept``; auxiliary heads read what is left."""
    widths = convolution_widths(checkpoint.info.widths)
    weights = dict(checkpoint.weights)
    for name in SOURCES:
        for tensor in _OF_OUTPUTS:
            weights[f"{name}.{tensor}"] = weights[f"{name}.{tensor}"][list(kept[name])]
    of_convolutions = {f"{name}.conv.weight": sources for name, sources in SOURCES.items() if sources}
    for weight, sources in {**of_convolutions, **CLASSIFIER_SOURCES}.items():
        if weight in weights:  # a pruned checkpoint has no auxiliary heads
            weights[weight] = weights[weight][:, _places(sources, kept, widths)]
    left = widths_from({name: len(channels) for name, channels in kept.items()})
    return Checkpoint(replace(checkpoint.info, widths=left), weights)


def convolution_widths(widths: Widths) -> dict[str, int]:
    """The output channels of each convolution by its name, in the order of the forward pass."""
    found = {name: getattr(widths, name) for name in STEM}
    for block in BLOCKS:
        columns: InceptionWidths = getattr(widths, block)
        counts = (columns.c1, *columns.c3, *columns.c5, columns.pool)
        found |= {f"{block}.{branch}": count for branch, count in zip(BRANCHES, counts, strict=True)}
    return found


def widths_from(counts: Mapping[str, int]) -> Widths:
    """The inverse of `convolution_widths`."""

    def inception(block: str) -> InceptionWidths:
        c1, c3_reduce, c3, c5_reduce, c5, pool = (counts[f"{block}.{branch}"] for branch in BRANCHES)
        return InceptionWidths(c1, (c3_reduce, c3), (c5_reduce, c5), pool)

    conv1, conv2, conv3 = (counts[name] for name in STEM)
    return Widths(conv1, conv2, conv3, *(inception(block) for block in BLOCKS))


def macs_a_channel_pair(info: CheckpointInfo) -> dict[str, int]:
    """For each convolution, the multiply-accumulates that one input channel takes for one output channel.

    That is its taps times the places where they are put on one image; it does not depend on the widths.
    """
    model = GoogLeNet(info.model_config()).eval()
    outputs = _Outputs(model)
    with torch.inference_mode():
        model(torch.zeros(1, 3, info.preprocess.crop, info.preprocess.crop))
    taps = {name: model.get_submodule(name).get_parameter("conv.weight")[0, 0].numel() for name in SOURCES}
    return {name: taps[name] * output[0, 0].numel() for name, output in outputs.taken().items()}


def channel_importance(model: GoogLeNet, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """How much the loss would change without a channel: float64 ``(channels,)`` for each convolution, 0 or more.

    The mean over images of the squared first-order estimate (Σ over the places of activation × gradient)². Source:
    Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), equation 8, with gates on
    the activations as in section 3.1.

    Args:
        model: in eval mode.
        batches: float32 ``(N, 3, crop, crop)`` and int64 labels ``(N,)``.
    """
    sums = {name: torch.zeros(count, dtype=torch.float64) for name, count in _widths(model).items()}
    images, outputs = 0, _Outputs(model.requires_grad_(False))
    for x, labels in batches:
        loss = F.cross_entropy(model(x.requires_grad_()), labels, reduction="sum")
        activations = outputs.taken()
        gradients = torch.autograd.grad(loss, list(activations.values()))
        for (name, activation), gradient in zip(activations.items(), gradients, strict=True):
            sums[name] += (activation.detach() * gradient).sum((2, 3)).double().square().sum(0)
        images += len(x)
    outputs.close()
    model.requires_grad_(True)
    return {name: total / images for name, total in sums.items()}


def importance_on(
    checkpoint: Checkpoint, images: ImageSet, *, progress: Progress | None = None
) -> dict[str, NDArray[np.float64]]:
    """`channel_importance` on images of the training, as they are evaluated.

    Args:
        progress: told (images done, images in total).
    """
    preprocess, pixels = checkpoint.info.preprocess, load_pixels(images, checkpoint.info.preprocess)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(images), _BATCH):
            labels = torch.tensor(images.labels[first : first + _BATCH])
            batch = np.stack([next(pixels) for _ in labels])
            yield torch.from_numpy(preprocess.normalize(batch)), labels
            if progress:
                progress(first + len(labels), len(images))

    found = channel_importance(build_model(checkpoint), batches())
    return {name: scores.numpy() for name, scores in found.items()}


class _Outputs:
    """Remembers what the convolutions of a model put out, after batch normalization and ReLU, until it is taken."""

    def __init__(self, model: GoogLeNet) -> None:
        self._seen: dict[str, Tensor] = {}
        self._hooks = [model.get_submodule(name).register_forward_hook(self._hook(name)) for name in SOURCES]

    def taken(self) -> dict[str, Tensor]:
        """The outputs of the last forward pass, ``(N, channels, H, W)``, by the name of the convolution."""
        seen, self._seen = self._seen, {}
        return seen

    def close(self) -> None:
        """Lets go of the model."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> _Hook:
        def remember(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            self._seen[name] = output

        return remember


def _widths(model: GoogLeNet) -> dict[str, int]:
    return convolution_widths(model.config.widths)


def _places(sources: Sequence[str], kept: Kept, widths: Mapping[str, int]) -> list[int]:
    """The kept channels of some convolutions among all of theirs, side by side."""
    places, first = [], 0
    for source in sources:
        places += [first + channel for channel in kept[source]]
        first += widths[source]
    return places
