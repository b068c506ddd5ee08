"""A bundle under load for minutes: does it stay as fast when the device is warm, and does it keep up with a camera?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

from msgspec import Meta

from googlenet_edge.engines.timing import Clock, Tick
from googlenet_edge.errors import ConfigError
from googlenet_edge.statistics import Lasting, NonNegative, Tally

_LEAST_S, _MOST_S = 10.0, 7 * 24 * 3600.0
_MOST_WINDOWS = 600
_MOST_FPS = 1000.0


@dataclass(frozen=True, slots=True)
class SustainedPlan:
    """Inferences of one image for ``seconds``: back to back, or of the frames of a camera of ``fps``."""

    seconds: float
    fps: float | None = None

    def __post_init__(self) -> None:
        if not _LEAST_S <= self.seconds <= _MOST_S:
            raise ConfigError(
                f"sustained for {self.seconds:g} s says nothing about heat; give {_LEAST_S:g}s or more, a week at most"
            )
        if self.fps is not None and not 0 < self.fps <= _MOST_FPS:
            raise ConfigError(f"a camera of {self.fps:g} frames a second; give more than 0, and {_MOST_FPS:g} at most")
        if self.fps is not None and self.fps * self.seconds < 2:
            raise ConfigError(f"a camera of {self.fps:g} frames a second has no two in {self.seconds:g} s; give more")

    @property
    def window_s(self) -> float:
        """How long what is summarized together lasts."""
        return max(1.0, self.seconds / _MOST_WINDOWS)

    @property
    def window_count(self) -> int:
        """Into how many pieces the time is divided."""
        return math.ceil(self.seconds / self.window_s)


@dataclass(frozen=True, slots=True)
class SustainedWindow:
    """The inferences that began within `SustainedPlan.window_s` after ``start_s``; ``missed`` as in `Sustained`."""

    start_s: NonNegative
    inferences: Tally
    p50_ms: Lasting
    worst_ms: Lasting
    missed: Tally


@dataclass(frozen=True, slots=True)
class Sustained:
    """A load that lasted.

    ``started_s`` is its start in the time of the sensors' samples. ``missed`` of the ``frames`` of the camera had their
    answer after the next frame came, or were never looked at; both are 0 without a camera.
    """

    plan: SustainedPlan
    started_s: NonNegative
    windows: Annotated[tuple[SustainedWindow, ...], Meta(min_length=1)]
    inferences: Tally
    frames: Tally
    missed: Tally

    @property
    def first_ms(self) -> float:
        """The latency within the first tenth of the time: the median of the windows' medians."""
        return statistics.median(window.p50_ms for window in self.windows[: self._tenth])

    @property
    def last_ms(self) -> float:
        """The same of the last tenth."""
        return statistics.median(window.p50_ms for window in self.windows[-self._tenth :])

    @property
    def slowdown(self) -> float:
        """The last tenth divided by the first."""
        return self.last_ms / self.first_ms

    @property
    def _tenth(self) -> int:
        return max(1, len(self.windows) // 10)


@dataclass(frozen=True, slots=True)
class _Inference:
    """``frames`` came up to its end, and ``missed`` of them got no answer in time."""

    began_s: float
    ms: float
    frames: int = 0
    missed: int = 0


def sustain(
    run: Callable[[], object],
    *,
    plan: SustainedPlan,
    elapsed_s: Clock,
    pause: Callable[[float], None],
    tick: Tick,
) -> Sustained:
    """Has ``run`` infer one image as often as the plan says.

    Args:
        elapsed_s: the time of the sensors' samples, `Watch.elapsed_s`.
        pause: `time.sleep`.
        tick: called `SustainedPlan.window_count` times.
    """
    started_s, windows, frames = elapsed_s(), [], 0
    inferences = _inferences(run, plan, lambda: elapsed_s() - started_s, pause)
    for number, group in groupby(inferences, key=lambda inference: int(inference.began_s / plan.window_s)):
        within = list(group)
        windows.append(_window(number * plan.window_s, within))
        frames += sum(inference.frames for inference in within)
        tick()
    for _ in range(plan.window_count - len(windows)):
        tick()
    return Sustained(
        plan=plan,
        started_s=started_s,
        windows=tuple(windows),
        inferences=sum(window.inferences for window in windows),
        frames=frames,
        missed=sum(window.missed for window in windows),
    )


def _inferences(
    run: Callable[[], object], plan: SustainedPlan, now_s: Clock, pause: Callable[[float], None]
) -> Iterator[_Inference]:
    """With a camera, frame i comes at i / fps, and whoever is free takes the newest."""
    frame = 0
    while True:
        if plan.fps:
            pause(max(0.0, frame / plan.fps - now_s()))
        began_s = now_s()
        if began_s >= plan.seconds:
            return
        run()
        ended_s = now_s()
        came = missed = 0
        if plan.fps:
            came = max(1, math.floor(ended_s * plan.fps) - frame)
            missed = came - 1 + (ended_s > (frame + 1) / plan.fps)
        yield _Inference(began_s, (ended_s - began_s) * 1e3, came, missed)
        frame += came


def _window(start_s: float, inferences: list[_Inference]) -> SustainedWindow:
    times = [inference.ms for inference in inferences]
    missed = sum(inference.missed for inference in inferences)
    return SustainedWindow(start_s, len(times), statistics.median(times), max(times), missed)
