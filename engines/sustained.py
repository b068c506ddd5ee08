"""A bundle under load for minutes: does it stay as fast when the device is warm, and does it keep up with a camera?"""

from __future__ import annotations

import math
import signal
import statistics
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Annotated

import numpy as np
from msgspec import Meta

from googlenet_edge.engines.timing import Clock, Tick
from googlenet_edge.errors import ConfigError, EngineError, why
from googlenet_edge.statistics import Lasting, NonNegative, Tally

_LEAST_S, _MOST_S = 10.0, 7 * 24 * 3600.0
_MOST_WINDOWS = 600
_MOST_FPS = 1000.0
_KEEP_EVERY_S = 60.0
_WENT_ON = "what came later is lost"


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
    answer after the next frame came, or were never looked at; both are 0 without a camera. ``ended_s`` is how long it
    lasted, where it ended before its time; then the last window is shorter, too.
    """

    plan: SustainedPlan
    started_s: NonNegative
    windows: Annotated[tuple[SustainedWindow, ...], Meta(min_length=1)]
    inferences: Tally
    frames: Tally
    missed: Tally
    ended_s: NonNegative | None = None

    @property
    def lasted_s(self) -> float:
        """How long it lasted."""
        return self.plan.seconds if self.ended_s is None else self.ended_s

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
class Loads:
    """The loads of some bundles, in their order. ``ended`` says why they end before their time, where they do.

    Then the last one is cut short, or its bundle and those after it have none.
    """

    of_each: tuple[Sustained | None, ...]
    ended: str = ""


def sustain(
    runs: Sequence[Callable[[], object]],
    *,
    plan: SustainedPlan,
    elapsed_s: Clock,
    pause: Callable[[float], None],
    tick: Tick,
    so_far: Callable[[Loads], None],
) -> Loads:
    """Has each of ``runs`` infer one image as often as the plan says, one after the other.

    An engine that fails ends all of it, and so do Ctrl-C, SIGTERM and SIGHUP: what was done by then is the result.

    Args:
        elapsed_s: the time of the sensors' samples, `Watch.elapsed_s`.
        pause: `time.sleep`.
        tick: called `SustainedPlan.window_count` times for each of ``runs``, if all of them last.
        so_far: told what was done until then: after the first inference, then once a minute, between two of them.

    Raises:
        EngineError, KeyboardInterrupt, SystemExit: what ended it, where no inference was done by then.
    """
    loads: list[_Load] = []
    ended, next_s = "", 0.0

    def found(ended: str) -> Loads:
        return Loads((*(load.sustained() for load in loads), *[None] * (len(runs) - len(loads))), ended)

    def after_inference() -> None:
        nonlocal next_s
        if elapsed_s() >= next_s:
            so_far(found(_WENT_ON))
            next_s = elapsed_s() + _KEEP_EVERY_S

    try:
        with signals_to(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
            for run in runs:
                loads.append(_Load(plan, elapsed_s, tick, after_inference))
                loads[-1].last(run, pause)
    except (EngineError, KeyboardInterrupt, SystemExit) as problem:  # the last is how `clocks.held` ends
        ended = why(problem) if isinstance(problem, EngineError) else "interrupted"
        if not any(load.sustained() for load in loads):
            raise
    return found(ended)


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals) -> Iterator[None]:
    """Has signals handled in a block of the main thread, but for those that are handled or ignored, as by `nohup`."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if here}
    taken = [number for number, known in before.items() if known in (signal.SIG_DFL, signal.default_int_handler)]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@dataclass(frozen=True, slots=True)
class _Inference:
    """``frames`` came up to its end, and ``missed`` of them got no answer in time."""

    began_s: float
    ms: float
    frames: int = 0
    missed: int = 0


@dataclass(slots=True)
class _Filling:
    """The window of a load that is being filled: in a week, a million of the fastest inferences."""

    number: int = 0
    times_ms: array[float] = field(default_factory=lambda: array("d"))
    missed: int = 0

    def window(self, plan: SustainedPlan) -> SustainedWindow:
        """What it holds now, at least one inference."""
        p50 = float(np.median(self.times_ms))
        return SustainedWindow(
            self.number * plan.window_s, len(self.times_ms), p50, max(self.times_ms), missed=self.missed
        )


class _Load:
    """A load while it lasts. It can be left at any moment."""

    def __init__(self, plan: SustainedPlan, elapsed_s: Clock, tick: Tick, after_inference: Tick) -> None:
        self._plan, self._elapsed_s, self._tick, self._after_inference = plan, elapsed_s, tick, after_inference
        self._started_s, self._complete, self._frames = elapsed_s(), False, 0
        self._windows: dict[int, SustainedWindow] = {}
        self._filling = _Filling()

    def last(self, run: Callable[[], object], pause: Callable[[float], None]) -> None:
        """Goes on to its end."""
        for inference in _inferences(run, self._plan, self._now_s, pause):
            number = int(inference.began_s / self._plan.window_s)
            if number > self._filling.number:
                self._keep()
                self._filling = _Filling(number)
                self._tick()
            self._filling.times_ms.append(inference.ms)
            self._filling.missed += inference.missed
            self._frames += inference.frames
            self._after_inference()
        for _ in range(self._plan.window_count - len(self._windows.keys() - {self._filling.number})):
            self._tick()
        self._complete = True

    def sustained(self) -> Sustained | None:
        """What was done until now; None where that is nothing."""
        self._keep()
        windows = tuple(self._windows.values())
        if not windows:
            return None
        return Sustained(
            plan=self._plan,
            started_s=self._started_s,
            windows=windows,
            inferences=sum(window.inferences for window in windows),
            frames=self._frames,
            missed=sum(window.missed for window in windows),
            ended_s=None if self._complete else self._now_s(),
        )

    def _now_s(self) -> float:
        return self._elapsed_s() - self._started_s

    def _keep(self) -> None:
        """A second time changes nothing."""
        if self._filling.times_ms:
            self._windows[self._filling.number] = self._filling.window(self._plan)


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
