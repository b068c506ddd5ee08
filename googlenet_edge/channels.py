"""Which convolution reads whose channels, which are removed first, and from all that read them, too.

A convolution is named after its module, such as ``inception3a.branch2.0``. Pools and Concats let channels through in
their order, so what a convolution reads are the outputs of its sources, side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

STEM = ("conv1", "conv2", "conv3")
BLOCKS = tuple(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"))
BRANCHES = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
"""The convolutions of an Inception block, in the order of the columns of the paper's table 1."""

_INNER = {
    "branch2.1": "branch2.0",
    "branch3.1": "branch3.0",
}  # reads the one before it; all others read the block's input
_OUTER = tuple(branch for branch in BRANCHES if branch not in _INNER.values())  # in the order of the Concat


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


def _groups(name: str, scores: NDArray[np.float64], step: int) -> list[Removal]:
    """The groups that a convolution can do without, the most important first."""
    ranked = np.argsort(scores, kind="stable").tolist()
    first = len(ranked) % step or step
    starts = [0, *range(first, len(ranked) - step + 1, step)]
    groups = [ranked[a:b] for a, b in pairwise(starts)]
    return [Removal(name, tuple(sorted(group)), float(scores[group].sum())) for group in reversed(groups)]
