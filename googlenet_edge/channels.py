"""Which convolution reads whose channels: a channel that is removed is removed from all that read it, too.

A convolution is named after its module, such as ``inception3a.branch2.0``. Pools and Concats let channels through in
their order, so what a convolution reads are the outputs of its sources, side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
