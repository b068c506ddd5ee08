"""Slimming: taking channels out of a trained network, and out of everything that reads them.

What is left is a smaller GoogLeNet with the same names. Where the removed channels were always zero its logits are the
same; where they were not, fine-tuning has to find back what they did.

A convolution is named after its module, such as ``inception3a.branch2.0``. Pools and Concats let channels through in
their order, so what a convolution reads are the outputs of its sources, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from googlenet_edge.checkpoint import Checkpoint, CheckpointInfo, build_model
from googlenet_edge.dataset import ImageSet, Progress, load_pixels
from googlenet_edge.model import GoogLeNet, InceptionWidths, Widths

STEM = ("conv1", "conv2", "conv3")
BLOCKS = tuple(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"))
BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
"""The convolutions of an Inception block, in the order of the columns of the paper's table 1."""

_INNER = {
    "branch2.1": "branch2.0",
    "branch3.1": "branch3.0",
}  # reads the one before it; all others read the block's input
_OUTER = tuple(branch for branch in BRANCHES if branch not in _INNER.values())  # in the order of the Concat

Kept = Mapping[str, Sequence[int]]
"""The channels that each convolution keeps: their places among its outputs, ascending, at least one."""

_BATCH = 16
_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
_OF_OUTPUTS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def stage_of(convolution: str) -> str:
    """``stem``, or the block that a convolution is in."""
    return "stem" if convolution in STEM else convolution.partition(".")[0]


def outputs_of(block: str) -> tuple[str, ...]:
    """The convolutions whose channels the Concat of a block puts side by side."""
    return tuple(f"{block}.{branch}" for branch in _OUTER)


def _sources() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {"conv1": (), "conv2": ("conv1",), "conv3": ("conv2",)}
    before: tuple[str, ...] = ("conv3",)
    for block in BLOCKS:
        for branch in BRANCHES:
            found[f"{block}.{branch}"] = (f"{block}.{_INNER[branch]}",) if branch in _INNER else before
        before = outputs_of(block)
    return found


SOURCES: Mapping[str, tuple[str, ...]] = _sources()
"""For each convolution, in the order of the forward pass, those that it reads; the first reads the images."""

CLASSIFIER_SOURCES: Mapping[str, tuple[str, ...]] = {
    "aux1.conv.conv.weight": outputs_of("inception4a"),
    "aux2.conv.conv.weight": outputs_of("inception4d"),
    "fc.weight": outputs_of("inception5b"),
}
"""The same for the weights of the classifiers, of which no output is ever removed."""


def channels_read(sources: Iterable[str], widths: Mapping[str, int]) -> int:
    """How many channels some convolutions have together; those of the images where there is none."""
    return sum(widths[source] for source in sources) or 3


READERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(reader for reader, sources in SOURCES.items() if name in sources) for name in SOURCES
}
"""For each convolution, those that read it."""


STEP = 8
"""Channels go in groups of this many, and widths stay multiples of it: kernels compute as many at a time."""


@dataclass(frozen=True, slots=True)
class Removal:
    """Output channels of one convolution that go together, and what that costs in importance."""

    convolution: str
    channels: tuple[int, ...]
    importance: float


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Where the time of a network goes.

    ``macs`` is, for each convolution, the multiply-accumulates of one pair of input and output channel. ``ms_per_mac``
    is, for each stage (`stage_of`), the time that removing channels there saves for each one less.
    """

    macs: Mapping[str, int]
    ms_per_mac: Mapping[str, float]

    def saved_ms(self, convolution: str, channels: int, widths: Mapping[str, int]) -> float:
        """What a network of these widths saves without some output channels of a convolution and in their readers."""
        own = self.macs[convolution] * channels_read(SOURCES[convolution], widths)
        others = sum(self.macs[reader] * widths[reader] for reader in READERS[convolution])
        return channels * (own + others) * self.ms_per_mac[stage_of(convolution)]


def order_of_removal(
    importance: Mapping[str, NDArray[np.float64]], model: LatencyModel, *, step: int = STEP
) -> tuple[Removal, ...]:
    """All removals until every convolution has ``step`` channels left, or what it has where that is less.

    Each time that group goes which matters least for the time that it saves in the network as it is by then. The first
    group of a convolution brings it to a multiple of ``step``.

    Args:
        importance: of each channel ``(channels,)``, 0 or more, by convolution.
    """
    widths = {name: len(scores) for name, scores in importance.items()}
    waiting = {name: groups for name, scores in importance.items() if (groups := _groups(name, scores, step))}
    order = []
    while waiting:

        def worth(name: str) -> tuple[float, str]:
            group = waiting[name][-1]
            return group.importance / model.saved_ms(name, len(group.channels), widths), name

        name = min(waiting, key=worth)
        order.append(waiting[name].pop())
        widths[name] -= len(order[-1].channels)
        if not waiting[name]:
            del waiting[name]
    return tuple(order)


def kept_after(removals: Sequence[Removal], widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The channels that each convolution keeps, ascending."""
    gone: dict[str, set[int]] = {name: set() for name in widths}
    for removal in removals:
        gone[removal.convolution].update(removal.channels)
    return {name: tuple(i for i in range(width) if i not in gone[name]) for name, width in widths.items()}


def halved(importance: Mapping[str, NDArray[np.float64]], stage: str, *, step: int = STEP) -> tuple[Removal, ...]:
    """The less important half of the groups of every convolution of a stage."""
    found: list[Removal] = []
    for name, scores in importance.items():
        if stage_of(name) == stage:
            groups = _groups(name, scores, step)[::-1]
            found += groups[: (len(groups) + 1) // 2]
    return tuple(found)


def macs_of(widths: Mapping[str, int], macs: Mapping[str, int]) -> int:
    """The multiply-accumulates of all convolutions of a network of these widths, for one image."""
    return sum(macs[name] * channels_read(sources, widths) * widths[name] for name, sources in SOURCES.items())


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


def _groups(name: str, scores: NDArray[np.float64], step: int) -> list[Removal]:
    """The groups that a convolution can do without, the most important first."""
    ranked = np.argsort(scores, kind="stable").tolist()
    first = len(ranked) % step or step
    starts = [0, *range(first, len(ranked) - step + 1, step)]
    groups = [ranked[a:b] for a, b in pairwise(starts)]
    return [Removal(name, tuple(sorted(group)), float(scores[group].sum())) for group in reversed(groups)]
