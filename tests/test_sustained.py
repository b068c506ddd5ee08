"""A load that lasts, with a clock on which every inference and every frame has its known moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.sustained import Sustained, SustainedPlan, sustain
from googlenet_edge.errors import ConfigError


@dataclass
class FakeTime:
    now: float = 1000.0

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def load(plan: SustainedPlan, takes_s: Callable[[float], float]) -> tuple[Sustained, int]:
    """A load of inferences that take so long, by the second in which they begin; and how often it told progress."""
    at, ticks = FakeTime(), []

    def run() -> None:
        at.now += takes_s(at.now - 1000)

    found = sustain(run, plan=plan, elapsed_s=at.clock, pause=at.pause, tick=lambda: ticks.append(None))
    return found, len(ticks)


def test_load_back_to_back_is_summarized_second_by_second() -> None:
    found, ticks = load(SustainedPlan(20), lambda second: 0.125 if second < 10 else 0.25)
    assert (found.started_s, found.inferences, found.frames, found.missed) == (1000, 8 * 10 + 4 * 10, 0, 0)
    assert [window.start_s for window in found.windows] == list(range(20))
    assert [window.inferences for window in found.windows] == [8] * 10 + [4] * 10
    assert (found.windows[0].p50_ms, found.windows[-1].worst_ms) == (125, 250)
    assert (found.first_ms, found.last_ms, found.slowdown) == (125, 250, 2)
    assert ticks == 20


def test_load_of_a_camera_that_is_kept_up_with_misses_nothing() -> None:
    found, _ = load(SustainedPlan(10, fps=32), lambda _: 1 / 64)
    assert (found.inferences, found.frames, found.missed) == (320, 320, 0)


def test_load_of_a_camera_that_is_twice_as_fast_misses_them_all() -> None:
    """Each answer comes when the next but one frame is there: late, and the one between was never looked at."""
    found, _ = load(SustainedPlan(10, fps=32), lambda _: 2 / 32)
    assert (found.inferences, found.frames, found.missed) == (160, 320, 320)


def test_one_slow_inference_costs_the_frames_that_came_meanwhile() -> None:
    found, _ = load(SustainedPlan(10, fps=8), lambda second: 0.5 if second == 2 else 0.0625)
    assert (found.frames, found.missed) == (80, 4)
    assert [window.missed for window in found.windows] == [0, 0, 4, *[0] * 7]
    assert found.windows[2].worst_ms == 500


def test_load_of_inferences_longer_than_a_window_tells_progress_all_the_same() -> None:
    found, ticks = load(SustainedPlan(10), lambda _: 4.0)
    assert [(window.start_s, window.inferences) for window in found.windows] == [(0, 1), (4, 1), (8, 1)]
    assert ticks == 10


@given(st.floats(1, 100), st.floats(0.001, 0.5))
def test_frames_are_those_that_came_and_no_more_are_missed(fps: float, takes_s: float) -> None:
    found, _ = load(SustainedPlan(10, fps=fps), lambda _: takes_s)
    assert 0 <= found.missed <= found.frames
    assert found.frames >= found.inferences
    assert found.frames == pytest.approx(10 * fps, abs=2 + takes_s * fps)


def test_long_load_has_windows_that_can_be_drawn() -> None:
    plan = SustainedPlan(3600)
    assert (plan.window_s, plan.window_count) == (6, 600)


@pytest.mark.parametrize(
    ("seconds", "fps", "sentence"),
    [
        (5, None, "sustained for 5 s says nothing about heat; give 10s or more, a week at most"),
        (7e5, None, "sustained for 700000 s says nothing about heat; give 10s or more, a week at most"),
        (10, 0.1, "a camera of 0.1 frames a second has no two in 10 s; give more"),
        (float("inf"), None, "sustained for inf s"),
        (60, 0, "a camera of 0 frames a second; give more than 0, and 1000 at most"),
        (60, float("nan"), "a camera of nan frames"),
    ],
)
def test_load_that_says_nothing_is_refused(seconds: float, fps: float | None, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        SustainedPlan(seconds, fps)
