"""A load that lasts, with a clock on which every inference and every frame has its known moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from googlenet_edge.engines.sustained import Loads, Sustained, SustainedPlan, sustain
from googlenet_edge.errors import ConfigError, EngineError


@dataclass
class FakeTime:
    now: float = 1000.0

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


def sustained(
    runs: list[Callable[[], None]],
    plan: SustainedPlan,
    at: FakeTime,
    tick: Callable[[], None] = lambda: None,
    so_far: Callable[[Loads], None] = lambda _: None,
) -> Loads:
    return sustain(runs, plan=plan, elapsed_s=at.clock, pause=at.pause, tick=tick, so_far=so_far)


def load(plan: SustainedPlan, takes_s: Callable[[float], float]) -> tuple[Sustained, int]:
    """A load of inferences that take so long, by the second in which they begin; and how often it told progress."""
    at, ticks = FakeTime(), []

    def run() -> None:
        at.now += takes_s(at.now - 1000)

    found = sustained([run], plan, at, lambda: ticks.append(None))
    assert found.of_each[0]
    assert not found.ended
    return found.of_each[0], len(ticks)


def loads_of_three(plan: SustainedPlan, end: Callable[[], object], *, after: int) -> Loads:
    """Loads of 8 inferences a second, one after the other, until ``end`` is called after so many in all."""
    at, done = FakeTime(), []

    def run() -> None:
        if len(done) == after:
            end()
        done.append(None)
        at.now += 0.125

    return sustained([run] * 3, plan, at)


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


def fail() -> None:
    raise EngineError("CUDA failed on a batch of 1 (unspecified launch failure); open the bundle again")


def test_load_whose_engine_fails_keeps_what_was_done_before() -> None:
    found = loads_of_three(SustainedPlan(10, fps=8), fail, after=80 + 20)
    first, second, third = found.of_each
    assert found.ended == "CUDA failed on a batch of 1 (unspecified launch failure); open the bundle again"
    assert first
    assert second
    assert third is None
    assert (first.inferences, first.frames, first.ended_s, first.lasted_s) == (80, 80, None, 10)
    assert (second.started_s, second.inferences, second.frames, second.ended_s) == (1010, 20, 20, 2.5)
    assert [(window.start_s, window.inferences) for window in second.windows] == [(0, 8), (1, 8), (2, 4)]
    assert second.slowdown == 1


def test_load_that_fails_at_its_first_inference_leaves_the_one_before() -> None:
    found = loads_of_three(SustainedPlan(10), fail, after=80)
    assert [load is None for load in found.of_each] == [False, True, True]
    assert found.ended


def test_load_of_which_nothing_was_done_fails_as_its_engine_did() -> None:
    with pytest.raises(EngineError, match="CUDA failed"):
        loads_of_three(SustainedPlan(10), fail, after=0)


ENDED = """
import signal, sys
from test_sustained import SustainedPlan, loads_of_three

number, before = signal.Signals(int(sys.argv[1])), signal.getsignal(int(sys.argv[1]))
found = loads_of_three(SustainedPlan(10), lambda: signal.raise_signal(number), after=20)
assert signal.getsignal(number) is before
print(found.ended, [load and (load.inferences, load.ended_s) for load in found.of_each])
"""


def test_load_tells_after_its_first_inference_and_then_every_minute_what_was_done_until_then() -> None:
    at, told = FakeTime(), list[tuple[float, Loads]]()

    def run() -> None:
        at.now += 0.125

    def so_far(loads: Loads) -> None:
        told.append((at.now - 1000, loads))

    whole = sustained([run] * 2, SustainedPlan(90), at, so_far=so_far)
    known = [(moment, [load and (load.inferences, load.ended_s) for load in loads.of_each]) for moment, loads in told]
    assert known == [
        (0.125, [(1, 0.125), None]),
        (60.125, [(60 * 8 + 1, 60.125), None]),
        (120.125, [(90 * 8, None), (30 * 8 + 1, 30.125)]),
    ]
    assert {loads.ended for _, loads in told} == {"what came later is lost"}
    assert [load and (load.inferences, load.ended_s) for load in whole.of_each] == [(90 * 8, None)] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_load_that_somebody_ends_keeps_what_was_done_before(number: signal.Signals) -> None:
    """In a process of its own, which the signal would end."""
    command = [sys.executable, "-c", ENDED, str(int(number))]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted [(20, 2.5), None, None]\n", "")


def test_load_goes_on_after_a_hang_up_that_nohup_ignores() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = loads_of_three(SustainedPlan(10), lambda: signal.raise_signal(signal.SIGHUP), after=20)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [load and load.inferences for load in found.of_each] == [80, 80, 80]
    assert not found.ended


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
