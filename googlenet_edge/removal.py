"""In which order channels are removed: those first that matter least for the time that they take. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from googlenet_edge.channels import READERS, SOURCES, channels_read, stage_of

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
    is, for each stage (`channels.stage_of`), the time that removing channels there saves for each one less.
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
