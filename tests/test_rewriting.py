"""Which rewrites a build takes: those that win on a clock whose every millisecond is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import onnx
import pytest
from networks import imagenet_normalization
from test_rewrites import CROP, inception
from tiny_graph import table_of, tiny_graph

from googlenet_edge.engines.bundle import Trial
from googlenet_edge.engines.lowering import Lowered, lower
from googlenet_edge.engines.protocol import Engine, EngineOptions, EngineSpec
from googlenet_edge.engines.registry import backend_for
from googlenet_edge.engines.trials import ROUNDS, fastest, hold_trial
from googlenet_edge.target import Device, EngineName, Precision


@dataclass
class FakeClock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *ms: float) -> Callable[[], None]:
        """A call that takes these times in turns."""
        times: Iterator[float] = cycle(ms)

        def call() -> None:
            self.now += next(times) / 1e3

        return call


class FakeEngine(Engine):
    """Takes the time that its model's operators take."""

    def __init__(self, clock: FakeClock, lowered: Lowered, ms: Callable[[set[str]], float]) -> None:
        names = {node.op_type for node in onnx.load_model_from_string(lowered.model).graph.node}
        self.run = lambda pixels: clock.takes(ms(names))()
        self.spec = EngineSpec("fake", "1", Device.CPU, threads=1, crop=CROP, classes=3)


@pytest.fixture(scope="module")
def plain() -> Lowered:
    graph = inception()
    return lower(graph, device=Device.CPU, precision=Precision.INT8, table=table_of(graph))


def chosen(plain: Lowered, ms: Callable[[set[str]], float]) -> Lowered:
    clock = FakeClock()
    return fastest(plain, lambda lowered: FakeEngine(clock, lowered, ms), clock=clock)  # type: ignore[arg-type]


def test_trial_takes_the_fastest_and_says_by_how_much() -> None:
    clock = FakeClock()
    candidates = {"fast": clock.takes(8.0), "faster": clock.takes(7.0), "slow": clock.takes(11.0)}
    seen: list[tuple[int, int]] = []
    found = hold_trial(clock.takes(10.0), candidates, clock=clock, progress=lambda *at: seen.append(at))
    assert [(t.name, pytest.approx(t.ratio), t.taken) for t in found] == [
        ("fast", 0.8, False),
        ("faster", 0.7, True),
        ("slow", 1.1, False),
    ]
    assert seen == [(i + 1, 4 * ROUNDS) for i in range(4 * ROUNDS)]
    assert 2 < clock.now < 4, "seconds"


def test_trial_takes_none_within_the_noise() -> None:
    clock, random = FakeClock(), np.random.default_rng(0)
    noisy = {name: clock.takes(*random.normal(9.99, 1, 997).clip(5)) for name in "ab"}
    found = hold_trial(clock.takes(*random.normal(10, 1, 991).clip(5)), noisy, clock=clock)
    assert not any(trial.taken for trial in found)
    assert all(trial.interval.low < 1 < trial.interval.high for trial in found)


def test_trial_of_slow_calls_runs_each_once_a_round() -> None:
    clock = FakeClock()
    hold_trial(clock.takes(400.0), {"a": clock.takes(400.0)}, clock=clock)
    assert clock.now == pytest.approx(0.4 * 2 * (5 + 2 * ROUNDS))


def test_fastest_takes_both_rewrites_where_each_helps(plain: Lowered) -> None:
    taken = chosen(plain, lambda kinds: 10.0 - ("Reshape" in kinds) - 2 * ("Split" in kinds))
    assert [(t.name, pytest.approx(t.ratio), t.taken) for t in taken.rewrites] == [
        ("space-to-depth", 0.9, False),
        ("merged-1x1", 0.8, False),
        ("space-to-depth + merged-1x1", 0.7, True),
    ]
    nodes = onnx.load_model_from_string(taken.model).graph.node
    assert {"Reshape", "Split"} <= {node.op_type for node in nodes}
    integers, *verdicts = taken.notes
    assert integers == "on integers: 5 of 5 Conv, 2 of 2 MaxPool, 1 of 1 Concat"
    assert verdicts[0] == (
        "rewrite space-to-depth: 0.900 of the plain model's time here (95 % interval 0.900 to 0.900), not taken"
    )
    assert verdicts[2].endswith("(95 % interval 0.700 to 0.700), taken")


def test_fastest_on_openvino_tries_signed_pixels_and_counts_its_integers(plain: Lowered) -> None:
    clock = FakeClock()

    def opened(lowered: Lowered) -> FakeEngine:
        return FakeEngine(clock, lowered, lambda kinds: 10.0 - ("Cast" in kinds) - 2 * ("Split" in kinds))

    taken = fastest(plain, opened, engine=EngineName.OPENVINO, clock=clock)  # type: ignore[arg-type]
    assert [(t.name, pytest.approx(t.ratio), t.taken) for t in taken.rewrites] == [
        ("merged-1x1", 0.8, False),
        ("space-to-depth + merged-1x1", 0.8, False),
        ("signed-pixels", 0.9, False),
        ("signed-pixels + merged-1x1", 0.7, True),
    ]
    assert taken.notes[0] == "on integers: 5 of 5 Convolution, 2 of 2 Pooling, 1 of 1 Concatenation"


def test_fastest_takes_one_alone_where_the_other_costs_time(plain: Lowered) -> None:
    taken = chosen(plain, lambda kinds: 10.0 - ("Reshape" in kinds) + ("Split" in kinds))
    assert [t.name for t in taken.rewrites if t.taken] == ["space-to-depth"]
    assert taken.notes[0] == "on integers: 7 of 7 Conv, 2 of 2 MaxPool, 1 of 1 Concat"


def test_fastest_keeps_the_plain_model_where_nothing_helps(plain: Lowered) -> None:
    taken = chosen(plain, lambda kinds: 10.0)
    assert taken.model == plain.model
    assert taken.notes[0] == "on integers: 7 of 7 Conv, 2 of 2 MaxPool, 1 of 1 Concat"
    assert [trial.taken for trial in taken.rewrites] == [False] * 3


@pytest.mark.parametrize(
    ("engine", "integers"),
    [
        (EngineName.ONNXRUNTIME, "3 of 3 Conv, 1 of 1 MaxPool, 1 of 1 Concat"),
        (EngineName.OPENVINO, "3 of 3 Convolution, 1 of 1 Pooling, 1 of 1 Concatenation"),
    ],
)
def test_fastest_of_a_model_without_candidates_is_the_model(engine: EngineName, integers: str) -> None:
    # its first convolution has stride 1, none of its 1×1 convolutions shares an input, and no pixel is its mean
    graph = tiny_graph()
    graph = replace(graph, preprocess=imagenet_normalization(graph.preprocess))
    plain = lower(graph, device=Device.CPU, precision=Precision.INT8, table=table_of(graph))
    taken = fastest(plain, lambda _: pytest.fail("nothing is to be timed"), engine=engine)
    assert taken == replace(plain, notes=(f"on integers: {integers}",))


def test_fastest_on_this_machine_gives_a_model_that_runs(plain: Lowered) -> None:
    def opened(lowered: Lowered) -> object:
        return backend_for(Device.CPU).open(lowered.model, EngineOptions())

    taken = fastest(plain, opened)  # type: ignore[arg-type]
    assert all(isinstance(trial, Trial) and trial.ratio > 0 for trial in taken.rewrites)
    pixels = np.random.default_rng(0).integers(0, 256, (2, CROP, CROP, 3), np.uint8)
    with opened(taken) as engine, opened(plain) as reference:
        assert np.allclose(engine.run(pixels), reference.run(pixels), atol=0.05)
