"""`--engine auto`: the fastest engine on this machine whose accuracy holds, and the reason why."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Built, copy_of, done
from tiny_bundles import COLOUR_NET, hide_openvino, onnx_bytes

from googlenet_edge.engines import lowering, registry
from googlenet_edge.engines.accuracy import Accuracy, Comparison
from googlenet_edge.engines.bundle import Verdict
from googlenet_edge.engines.protocol import Engine, EngineOptions, EngineSpec
from googlenet_edge.engines.registry import BACKENDS, Backend
from googlenet_edge.engines.trials import Candidate, Timed, choose, time_engines
from googlenet_edge.processor import Processor
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName

ORT, OPENVINO = BACKENDS
TAKEN, NOT_FASTER, INACCURATE = Verdict
PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


def timed(backend: Backend, *medians_ms: float) -> Timed:
    """Rounds of three runs, with a slow one that the median leaves out."""
    spec = EngineSpec(backend.name.value, "1.2.3", Device.CPU, threads=2, crop=32, classes=3)
    return Timed(backend, spec, tuple((ms, 50 * ms, ms) for ms in medians_ms))


def against_fp32(points: float) -> Comparison:
    accuracy = Accuracy(images=1000, top1=0.9, top1_interval=Interval(0.88, 0.92), top5=1.0)
    return Comparison(accuracy, 0.995, points, Interval(points - 1, points + 1), mcnemar_p=1.0)


def verdicts(ours: tuple[float, ...], others: tuple[float, ...], *, points: tuple[float, float]) -> list[Verdict]:
    changes = [against_fp32(change) for change in points]
    trials = choose([timed(ORT, *ours), timed(OPENVINO, *others)], changes, max_drop_points=0.5)
    return [trial.verdict for trial in trials]


STEADY, FASTER, SLOWER = (4.0,) * 8, (3.0,) * 8, (5.0,) * 8
UNDECIDED = (3.0, 5.0, 3.0, 5.0, 3.0, 5.0, 3.0, 3.9)


@pytest.mark.parametrize(
    ("others", "points", "expected"),
    [
        (FASTER, (0.0, 0.0), [NOT_FASTER, TAKEN]),
        (SLOWER, (0.0, 0.0), [TAKEN, NOT_FASTER]),
        (UNDECIDED, (0.0, 0.0), [TAKEN, NOT_FASTER]),
        (FASTER, (0.0, -0.6), [TAKEN, INACCURATE]),
        (FASTER, (0.0, -0.5), [NOT_FASTER, TAKEN]),
        (SLOWER, (-0.6, 0.0), [INACCURATE, TAKEN]),
        (FASTER, (-0.6, -0.6), [INACCURATE, INACCURATE]),
    ],
)
def test_auto_takes_the_fastest_that_holds_and_the_default_in_doubt(
    others: tuple[float, ...], points: tuple[float, float], expected: list[Verdict]
) -> None:
    assert verdicts(STEADY, others, points=points) == expected


def test_auto_says_how_fast_and_how_good_each_engine_was() -> None:
    first, second = choose(
        [timed(ORT, *STEADY), timed(OPENVINO, *FASTER)],
        [against_fp32(-0.1), against_fp32(0.2)],
        max_drop_points=1,
    )
    assert (first.engine, second.engine) == (EngineName.ONNXRUNTIME, EngineName.OPENVINO)
    assert (second.version, second.threads) == ("1.2.3", 2)
    assert (first.p50_ms, second.p50_ms) == (4.0, 3.0)
    assert second.p50_interval_ms == Interval(3.0, 3.0)
    assert (second.ratio, second.ratio_interval) == (0.75, Interval(0.75, 0.75))
    assert (second.top1_change_points, second.agreement) == (0.2, 0.995)


class Slower(Engine):
    """ONNX Runtime that does everything five times."""

    def __init__(self, model: bytes, options: EngineOptions) -> None:
        self._engine = ORT.open(model, options)
        self.spec = self._engine.spec
        self.close = self._engine.close

    def run(self, pixels: np.ndarray) -> np.ndarray:
        return [self._engine.run(pixels) for _ in range(5)][-1]


SLOWER_OPENVINO = Backend(EngineName.OPENVINO, Device.CPU, lambda: Slower)


def timings(*backends: Backend) -> list[Timed]:
    seen: list[tuple[int, int]] = []
    model = onnx_bytes(COLOUR_NET)
    found = time_engines(
        [Candidate(backend, model) for backend in backends],
        options=EngineOptions(),
        pixels=PIXELS,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]
    return found


def test_auto_times_engines_in_turns_and_finds_the_slower_one() -> None:
    found = timings(ORT, SLOWER_OPENVINO)
    assert [len(one.rounds_ms) for one in found] == [20, 20]
    trials = choose(found, [against_fp32(0), against_fp32(0)], max_drop_points=0)
    assert [trial.verdict for trial in trials] == [TAKEN, NOT_FASTER]
    assert trials[1].ratio > 2


def test_auto_goes_on_without_an_engine_that_is_not_installed(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_openvino(monkeypatch)
    work = copy_of(built.folder, tmp_path / "work")
    manifest = json.loads(done("build", "--engine", "auto", "--json", cwd=work).out)["manifest"]
    assert [manifest["engine"], *(one["engine"] for one in manifest["engine_trials"])] == ["onnxruntime"] * 2
    [note] = [note for note in manifest["notes"] if note.startswith("not tried")]
    assert note.startswith("not tried: the engine openvino cannot be loaded")


def test_build_takes_the_engine_that_is_faster_here_and_says_why(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    backends = (replace(ORT, load=lambda: Slower), replace(OPENVINO, load=ORT.load))
    monkeypatch.setattr(registry, "BACKENDS", backends)
    monkeypatch.setattr(lowering, "read_processor", lambda: Processor(x86=True, instructions=frozenset()))
    outcome = done("build", "--engine", "auto", "--max-drop", "100", "--json", cwd=work)
    manifest = json.loads(outcome.out)["manifest"]
    assert manifest["weight_bits"] == 7, "as an x86 without VNNI needs"
    slow, fast = manifest["engine_trials"]
    assert (slow["engine"], slow["verdict"], slow["ratio"]) == ("onnxruntime", "not faster", 1)
    assert (fast["engine"], fast["verdict"], manifest["engine"]) == ("openvino", "taken", "openvino")
    assert fast["ratio"] < 0.5
    assert fast["p50_interval_ms"]["low"] <= fast["p50_ms"] <= fast["p50_interval_ms"]["high"]
    assert fast["threads"] == 1, "as predict and bench open it"
    assert re.search(r"^openvino \S+ +[\d.]+ \([\d.]+ to [\d.]+\) +0\.\d{3} .* taken *$", outcome.err, re.MULTILINE)
    assert re.search(r"^engine +openvino *$", done("inspect", cwd=work).err, re.MULTILINE)


def test_build_of_a_named_engine_times_none(built: Built, tmp_path: Path) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    outcome = done("build", "--engine", "openvino", "--json", cwd=work)
    manifest = json.loads(outcome.out)["manifest"]
    assert (manifest["engine"], manifest["engine_trials"]) == ("openvino", [])
    assert "timing engines" not in manifest["build_seconds"]
    for engine in ("onnxruntime", "openvino"):
        found = json.loads(done("eval", "--engine", engine, "--json", cwd=work).out)
        assert found[0]["accuracy"]["images"] == 48
