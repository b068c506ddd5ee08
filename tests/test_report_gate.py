"""The gate: which changes are told from noise, which rules they break, and what is not compared at all."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import done, gnet_edge, refused
from measured import (
    answered,
    measured,
    measured_bundle,
    on_a_jetson,
    recorded_rounds,
    scaled,
    with_accuracy,
)

from googlenet_edge.engines.evaluate import Answers
from googlenet_edge.engines.measurement import BundleMeasurement, Measurement, Samples, samples
from googlenet_edge.engines.report.judge import Change, Metric, judge, latency_change, without_counterpart
from googlenet_edge.engines.report.material import Material, Source
from googlenet_edge.engines.report.verdict import Rule, Side, broken_sentences, parse_rules
from googlenet_edge.engines.rounds import BenchPlan, take_rounds
from googlenet_edge.errors import ConfigError, DataError
from googlenet_edge.files import write_json
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, EngineName, Precision, Unit

TRIALS = 100
ENOUGH = 95  # of 100: 19 in 20
BUNDLE = measured_bundle("runs/signs/int8-cpu")


def one(bundle: BundleMeasurement) -> Measurement:
    return measured(bundle)


def material(measurement: Measurement, name: str = "m.json", answers: tuple[Answers, ...] = ()) -> Material:
    return Material((Source(name, measurement),), answers)


def written(folder: Path, name: str, bundle: BundleMeasurement) -> Path:
    write_json(folder / name, one(bundle))
    return folder / name


# What is told from noise


class Replayed:
    """A call that takes as long as recorded, round by round, after one of 20 ms in each, which does not count."""

    def __init__(self, rounds_ms: np.ndarray) -> None:
        self._durations = iter([ms for times in rounds_ms for ms in (20.0, *times)])
        self._now = 0.0

    def __call__(self) -> None:
        self._now += next(self._durations) / 1e3

    def clock(self) -> float:
        return self._now


def another_run(random: np.random.Generator, recorded: np.ndarray, *, factor: float = 1.0) -> Samples:
    """What `bench` measures of it by default, as another process may see it an hour later.

    Stretches of five neighbouring rounds of the record, in another order, all of them slower or faster by the half
    percent that two processes differ by.
    """
    plan = BenchPlan(batches=())
    stretches = [np.roll(recorded, -start, axis=0)[:5] for start in random.integers(0, len(recorded), 40)]
    times = np.concatenate(stretches) * factor * np.exp(random.normal(0, 0.005))
    run = Replayed(times)
    return samples(take_rounds([run], plan=plan, clock=run.clock, tick=lambda: None)[0])


def found_different(factor: float, precision: Precision = Precision.FP32) -> int:
    """In how many of the trials the second run is judged to be slower or faster than the first."""
    recorded, random = np.array(recorded_rounds(precision)), np.random.default_rng(1)

    def differ() -> bool:
        before = another_run(random, recorded)
        return latency_change(Metric.P50, before, another_run(random, recorded, factor=factor)).real

    return sum(differ() for _ in range(TRIALS))


def test_judge_calls_two_runs_of_one_bundle_equal() -> None:
    assert TRIALS - found_different(1.0) >= ENOUGH


def test_judge_calls_two_runs_equal_where_the_record_drifts() -> None:
    """The recorded INT8 becomes 4 % faster in its last quarter."""
    assert TRIALS - found_different(1.0, Precision.INT8) >= ENOUGH


def test_judge_finds_a_slow_down_of_five_percent() -> None:
    assert found_different(1.05) >= ENOUGH


def test_judge_finds_a_slow_down_where_the_record_drifts() -> None:
    assert found_different(1.05, Precision.INT8) >= ENOUGH


def test_judge_finds_a_speed_up_of_five_percent() -> None:
    assert found_different(0.95) >= ENOUGH


def test_judge_finds_a_speed_up_where_the_record_drifts() -> None:
    assert found_different(0.95, Precision.INT8) >= ENOUGH


def changes_of(before: BundleMeasurement, after: BundleMeasurement) -> dict[Metric, tuple[float, bool]]:
    [pair] = judge(material(one(before)), material(one(after)))
    return {change.metric: (change.change, change.real) for change in pair.changes}


def test_judge_tells_what_became_of_every_metric() -> None:
    found = changes_of(BUNDLE, measured_bundle("runs/signs/int8-cpu", factor=1.25))
    assert found[Metric.P50] == found[Metric.P99] == (pytest.approx(25), True)
    assert found[Metric.THROUGHPUT] == (pytest.approx(-20), True)
    assert found[Metric.SIZE] == found[Metric.MEMORY] == (0, False)
    assert Metric.TOP1 not in found
    for share, real in ((1.017, False), (1.018, True)):
        starts = tuple(replace(start, peak_memory_mb=round(118_000 * share)) for start in BUNDLE.cold_starts)
        before = replace(BUNDLE, cold_starts=(replace(starts[0], peak_memory_mb=118_000), *BUNDLE.cold_starts))
        assert changes_of(before, replace(BUNDLE, cold_starts=starts))[Metric.MEMORY][1] is real


def test_judge_calls_no_difference_what_two_processes_differ_by() -> None:
    """However little the rounds of each differ."""
    still = replace(BUNDLE, latency=samples([(10.0, 10.0)] * 20))
    assert changes_of(still, replace(still, latency=scaled(still.latency, 1.017)))[Metric.P50][1] is False
    assert changes_of(still, replace(still, latency=scaled(still.latency, 1.018)))[Metric.P50][1] is True


def test_judge_keeps_a_change_inside_its_interval_however_large() -> None:
    """From one device to a much faster one, as `--force` compares."""
    [pair] = judge(material(one(BUNDLE)), material(one(measured_bundle("runs/signs/int8-cpu", factor=0.01))))
    found = {change.metric: change for change in pair.changes}
    for metric, expected in ((Metric.P50, -99), (Metric.THROUGHPUT, 9900)):
        change, interval = found[metric].change, found[metric].interval
        assert change == pytest.approx(expected)
        assert interval is not None
        assert -100 < interval.low <= change <= interval.high


FP32 = measured_bundle("runs/signs/fp32-cpu", Precision.FP32)


def p50_beside(before: Measurement, after: Measurement) -> tuple[float, bool, str]:
    """What became of the INT8 bundle's p50: percent, whether it is real, and beside which other bundle."""
    pairs = judge(material(before), material(after))
    [changes] = [pair.changes for pair in pairs if pair.after.label == "int8-cpu"]
    found = next(change for change in changes if change.metric is Metric.P50)
    return found.change, found.real, found.beside


def slower(bundle: BundleMeasurement, factor: float) -> BundleMeasurement:
    return replace(bundle, latency=scaled(bundle.latency, factor))


def test_judge_takes_out_what_the_machine_did_to_a_bundle_that_is_the_same() -> None:
    before, hot = measured(FP32, BUNDLE), measured(slower(FP32, 1.06), slower(BUNDLE, 1.06))
    assert p50_beside(before, hot) == (pytest.approx(0, abs=1e-9), False, "fp32-cpu")
    small = measured_bundle("runs/signs/small", factor=0.5)
    assert p50_beside(measured(small, FP32, BUNDLE), measured(small, FP32, BUNDLE)) == (0, False, "fp32-cpu"), "slowest"
    regressed = measured(slower(FP32, 1.06), replace(slower(BUNDLE, 1.06 * 1.05), model_sha256="e" * 64))
    change, real, beside = p50_beside(before, regressed)
    assert (change, real, beside) == (pytest.approx(5), True, "fp32-cpu")


def hotter(bundle: BundleMeasurement, factor: float) -> BundleMeasurement:
    """Everything that takes time takes ``factor`` as long."""
    starts = tuple(
        replace(s, start_ms=factor * s.start_ms, load_ms=factor * s.load_ms, first_ms=factor * s.first_ms)
        for s in bundle.cold_starts
    )
    batches = tuple(replace(batch, latency=scaled(batch.latency, factor)) for batch in bundle.throughput)
    return replace(slower(bundle, factor), throughput=batches, cold_starts=starts)


def beside_fp32(before: BundleMeasurement, after: BundleMeasurement, drift: float) -> dict[Metric, Change]:
    """What became of INT8 while FP32 took ``drift`` as long as before."""
    pairs = judge(material(measured(FP32, before)), material(measured(hotter(FP32, drift), after)))
    return {change.metric: change for change in pairs[1].changes}


@pytest.mark.parametrize("metric", [Metric.P50, Metric.THROUGHPUT])
def test_judge_takes_the_machine_out_of_everything_that_takes_time(metric: Metric) -> None:
    found = beside_fp32(BUNDLE, hotter(BUNDLE, 1.06), 1.06)[metric]
    assert (found.change, found.real, found.beside) == (pytest.approx(0, abs=1e-9), False, "fp32-cpu")
    worse = beside_fp32(BUNDLE, replace(hotter(BUNDLE, 1.06 * 1.25), model_sha256="e" * 64), 1.06)[metric]
    expected = -20 if metric is Metric.THROUGHPUT else 25
    assert (worse.change, worse.real) == (pytest.approx(expected), True)
    assert worse.interval.low <= worse.change <= worse.interval.high
    rate = 1 / (1.06 * 1.25) if metric is Metric.THROUGHPUT else 1.06 * 1.25
    assert worse.after / worse.before == pytest.approx(rate), "what was measured is shown as it was measured"


def test_judge_believes_a_cold_start_less_where_the_machine_drifted() -> None:
    assert not beside_fp32(BUNDLE, hotter(BUNDLE, 1.06), 1.06)[Metric.COLD_START].real
    worse = beside_fp32(BUNDLE, hotter(BUNDLE, 1.25), 1.06)[Metric.COLD_START]
    assert (worse.change, worse.real, worse.beside) == (pytest.approx(25), True, "")


def test_judge_takes_what_is_no_drift_for_a_change() -> None:
    """Of all bundles alike: a library that became slower, and says the same version."""
    found = beside_fp32(BUNDLE, hotter(BUNDLE, 1.5), 1.5)
    for metric in (Metric.P50, Metric.THROUGHPUT, Metric.COLD_START):
        assert (found[metric].beside, found[metric].real) == ("", True)
    assert found[Metric.P50].change == pytest.approx(50)


def test_judge_takes_nothing_out_of_what_the_other_bundle_did_not_do_as_often() -> None:
    fewer = replace(FP32, cold_starts=FP32.cold_starts[:2], throughput=FP32.throughput[:1])
    pairs = judge(material(measured(fewer, BUNDLE)), material(measured(hotter(fewer, 1.06), hotter(BUNDLE, 1.06))))
    found = {change.metric: change for change in pairs[1].changes}
    assert (found[Metric.THROUGHPUT].beside, found[Metric.THROUGHPUT].change) == ("", pytest.approx(100 / 1.06 - 100))
    assert (found[Metric.COLD_START].beside, found[Metric.COLD_START].change) == ("", pytest.approx(6))


def test_gate_finds_a_slow_down_of_all_bundles_on_another_machine(tmp_path: Path) -> None:
    """A machine of another kind says nothing about this one, though the bundles are the same."""
    write_json(tmp_path / "old.json", measured(FP32, BUNDLE))
    new = measured(hotter(FP32, 2.0), hotter(BUNDLE, 2.0))
    there = replace(new, circumstances=replace(new.circumstances, cpu_model="Cortex-A78AE"))
    write_json(tmp_path / "new.json", there)
    outcome = gnet_edge("report", "new.json", "--baseline", "old.json", "--force", "--fail-if", "p50>+5%", cwd=tmp_path)
    refused(outcome, r"fp32-cpu: p50 .* \+100\.0 % \(95 .*; int8-cpu: p50 .* \+100\.0 % \(95 .*")


@pytest.mark.parametrize(
    "other",
    [
        replace(FP32, model_sha256="e" * 64),
        replace(FP32, engine=replace(FP32.engine, threads=2)),
        replace(FP32, engine=replace(FP32.engine, device=Device.CUDA)),
        replace(FP32, engine=replace(FP32.engine, unit=Unit.DLA)),
    ],
    ids=["another model", "other threads", "another device", "another unit"],
)
def test_judge_takes_nothing_out_where_the_other_bundle_is_another(other: BundleMeasurement) -> None:
    before, after = measured(FP32, BUNDLE), measured(slower(other, 1.06), slower(BUNDLE, 1.06))
    assert p50_beside(before, after) == (pytest.approx(6), True, "")


def test_judge_takes_nothing_out_where_the_other_bundle_ran_at_another_time_or_on_another_part() -> None:
    """What the machine did to it says nothing, though it is the same in both runs."""
    apart = [
        Material((Source("fp32.json", one(slower(FP32, by))), Source("int8.json", one(slower(BUNDLE, by)))))
        for by in (1, 1.06)
    ]
    on_dla = replace(FP32, engine=replace(FP32.engine, unit=Unit.DLA))
    beside_a_dla = [material(measured(slower(on_dla, by), slower(BUNDLE, by))) for by in (1, 1.06)]
    for before, after in (apart, beside_a_dla):
        [change] = [pair.changes[0] for pair in judge(before, after) if pair.after.label == "int8-cpu"]
        assert (change.change, change.real, change.beside) == (pytest.approx(6), True, "")


def test_judge_takes_nothing_out_where_software_changed() -> None:
    """A newer runtime may be slower for all bundles alike."""
    before, after = measured(FP32, BUNDLE), measured(slower(FP32, 1.06), slower(BUNDLE, 1.06))
    packages = {**after.circumstances.packages, "onnxruntime": "9.9.9"}
    newer = replace(after, circumstances=replace(after.circumstances, packages=packages))
    assert p50_beside(before, newer) == (pytest.approx(6), True, "")


def test_the_sentence_of_a_change_names_the_bundle_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", measured(FP32, BUNDLE))
    worse = replace(slower(BUNDLE, 1.08), model_sha256="e" * 64)
    write_json(tmp_path / "new.json", measured(slower(FP32, 1.02), worse))
    command = ("report", "--baseline", "old.json", "new.json", "-o", "r.html", "--fail-if", "p50>+5%")
    sentence = r"int8-cpu: p50 .* ms, \+5\.9 % beside fp32-cpu \(95 % interval .*\), where at most \+5 % is allowed"
    refused(gnet_edge(*command, cwd=tmp_path), sentence)


def test_judge_finds_what_became_of_energy_and_cold_starts() -> None:
    [before], [after] = on_a_jetson(one(BUNDLE)).bundles, on_a_jetson(one(BUNDLE)).bundles
    assert before.energy is not None
    turns = (33.0, 33.5, 34.0)
    before = replace(before, energy=replace(before.energy, turns_mj=turns))
    for factor, real in ((1.01, False), (1.1, True)):
        energy = replace(before.energy, turns_mj=tuple(factor * mj for mj in turns))
        starts = tuple(replace(s, start_ms=factor * s.start_ms, load_ms=factor * s.load_ms) for s in after.cold_starts)
        found = changes_of(before, replace(after, energy=energy, cold_starts=starts))
        assert found[Metric.ENERGY] == (pytest.approx(100 * (factor - 1)), real)
        assert found[Metric.COLD_START][1] is real


def test_judge_compares_p99_9_where_both_have_a_thousand_samples() -> None:
    few, many = BUNDLE.latency, samples([times * 3 for times in BUNDLE.latency.rounds_ms])
    assert Metric.P99_9 not in changes_of(replace(BUNDLE, latency=many), replace(BUNDLE, latency=few))
    slower = replace(BUNDLE, latency=scaled(many, 1.5))
    assert changes_of(replace(BUNDLE, latency=many), slower)[Metric.P99_9] == (pytest.approx(50), True)


def test_judge_takes_shares_of_accuracy_as_of_different_images() -> None:
    before = with_accuracy(BUNDLE, 1800)
    assert changes_of(before, with_accuracy(BUNDLE, 1790))[Metric.TOP1] == (pytest.approx(-0.5), False)
    assert changes_of(before, with_accuracy(BUNDLE, 1700))[Metric.TOP1] == (pytest.approx(-5), True)
    [pair] = judge(material(one(before)), material(one(with_accuracy(BUNDLE, 1700))))
    change = next(change for change in pair.changes if change.metric is Metric.TOP1)
    assert change.interval.low < change.change < change.interval.high < 0


def test_judge_says_nothing_of_a_simulated_accuracy_beside_a_measured_one() -> None:
    jetson = replace(BUNDLE, engine=replace(BUNDLE.engine, backend="tensorrt", device=Device.ORIN_NANO))
    simulated, measured_there = (
        replace(with_accuracy(jetson, right), accuracy_engine=engine)
        for right, engine in ((1800, EngineName.SIMULATED), (1700, EngineName.TENSORRT))
    )
    assert Metric.TOP1 not in changes_of(simulated, measured_there)
    assert Metric.TOP1 in changes_of(simulated, simulated)
    pairs = judge(material(one(simulated)), material(one(measured_there)))
    with pytest.raises(DataError, match="which takes an accuracy on both, simulated on both or on neither; leave"):
        broken_sentences(parse_rules("top1<-0.2"), pairs)


def test_judge_compares_answers_image_by_image() -> None:
    """13 of 360 lost is within the intervals of both shares, and is no chance where nothing was gained."""
    before, after = answered(lost=0, gained=0), answered(lost=13, gained=0)
    [pair] = judge(material(one(BUNDLE), answers=(before,)), material(one(BUNDLE), answers=(after,)))
    change = next(change for change in pair.changes if change.metric is Metric.TOP1)
    assert (change.change, change.real) == (pytest.approx(-100 * 13 / 360), True)
    assert change.interval.high < 0
    others = replace(after, images=tuple(reversed(after.images)))
    [pair] = judge(material(one(BUNDLE), answers=(before,)), material(one(BUNDLE), answers=(others,)))
    assert not any(change.real for change in pair.changes), "other images are not compared one by one"


def test_judge_matches_bundles_by_the_names_of_their_folders() -> None:
    old = measured(*(measured_bundle(f"old/{name}-cpu", Precision(name)) for name in ("fp32", "int8")))
    new = measured(*(measured_bundle(f"new/{name}-cpu", Precision(name)) for name in ("int8", "fp16")))
    assert [pair.after.bundle.name for pair in judge(material(old), material(new))] == ["new/int8-cpu"]


def test_judge_matches_bundles_of_one_name_by_their_paths() -> None:
    both = measured(BUNDLE, measured_bundle("runs/other/int8-cpu", factor=2.0))
    pairs = judge(material(both), material(both))
    assert [pair.before.bundle.name for pair in pairs] == [pair.after.bundle.name for pair in pairs]
    assert len(pairs) == 2


def test_judge_matches_a_new_bundle_with_none_that_is_still_there() -> None:
    slim = measured_bundle("runs/signs/slim-1.5/int8-cpu", factor=0.6)
    before, now = material(one(BUNDLE)), material(measured(BUNDLE, slim))
    matched = judge(before, now)
    assert [pair.after.bundle.name for pair in matched] == [BUNDLE.name]
    assert without_counterpart(before, now, matched) == ([], ["runs/signs/slim-1.5/int8-cpu (onnxruntime)"])


def test_judge_matches_single_bundles_whatever_their_names() -> None:
    [pair] = judge(material(one(BUNDLE)), material(one(replace(BUNDLE, name="candidate"))))
    assert (pair.before.label, pair.after.label) == ("int8-cpu", "candidate")


def test_judge_takes_no_answers_of_another_engine() -> None:
    said = [
        replace(found, bundles=tuple(replace(bundle, backend=backend) for bundle in found.bundles))
        for found, backend in ((answered(lost=0), "onnxruntime"), (answered(lost=30), "openvino"))
    ]
    [pair] = judge(material(one(BUNDLE), answers=(said[0],)), material(one(BUNDLE), answers=(said[1],)))
    assert Metric.TOP1 not in {change.metric for change in pair.changes}


def test_gate_refuses_a_rule_for_accuracy_where_the_answers_are_of_another_engine(tmp_path: Path) -> None:
    found = answered(lost=0)
    others = replace(found, bundles=tuple(replace(bundle, backend="openvino") for bundle in found.bundles))
    write_json(tmp_path / "m.json", one(with_accuracy(BUNDLE, 1800)))
    write_json(tmp_path / "a.json", others)
    command = ("report", "m.json", "a.json", "--baseline", "m.json", "--baseline", "a.json", "--fail-if")
    sentence = r"\S+int8-cpu was measured with onnxruntime, and its answers are of openvino"
    refused(
        gnet_edge(*command, "top1<-0.2", cwd=tmp_path),
        f"{sentence}; evaluate with the engine that is measured \\(eval --engine\\)",
    )
    assert re.search(sentence, done(*command, "p50>+5%", cwd=tmp_path).err)


# Rules


def test_rules_are_read_as_they_are_written() -> None:
    assert parse_rules("p50>+5%, top1<-0.2,throughput<-3.5%,p99.9>+10%,energy>+5%,cold_start>+20%") == (
        Rule(Metric.P50, Side.ABOVE, 5.0),
        Rule(Metric.TOP1, Side.BELOW, -0.2),
        Rule(Metric.THROUGHPUT, Side.BELOW, -3.5),
        Rule(Metric.P99_9, Side.ABOVE, 10.0),
        Rule(Metric.ENERGY, Side.ABOVE, 5.0),
        Rule(Metric.COLD_START, Side.ABOVE, 20.0),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "",
            "--fail-if '' is no rule; write for example 'p50>\\+5%,top1<-0.2' with p50, p90, p99, p99.9,"
            " energy, cold_start, throughput, memory, size, top1",
        ),
        ("p51>+5%", "--fail-if 'p51>\\+5%' is no rule"),
        ("p50>+5%,", "--fail-if '' is no rule"),
        ("p50>nan%", "is no rule"),
        ("p50=+5%", "is no rule"),
        ("p50>+5", "the change of p50 is in percent, with % at its end"),
        ("top1<-0.2%", "the change of top1 is in points, without %"),
    ],
)
def test_rules_that_say_nothing_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_rules(text)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return written(tmp_path, "old.json", with_accuracy(BUNDLE, 1800))


def gate(old: Path, bundle: BundleMeasurement, rules: str, *more: str) -> Callable[..., object]:
    new = written(old.parent, "new.json", bundle)
    arguments = ("report", new, "--baseline", old, "--fail-if", rules, *more)
    return lambda run: run(*arguments, cwd=old.parent)


def test_gate_fails_in_one_line_that_says_why(old: Path) -> None:
    slower = with_accuracy(measured_bundle("runs/signs/int8-cpu", factor=1.1), 1700)
    outcome = gate(old, slower, "p50>+5%,top1<-0.2")(gnet_edge)
    refused(
        outcome,  # type: ignore[arg-type]
        r"int8-cpu: p50 4\.652 → 5\.117 ms, \+10\.0 % \(95 % interval \+\d+\.\d to \+\d+\.\d\), where at most \+5 % is"
        r" allowed; int8-cpu: top-1 90\.00 → 85\.00 %, -5\.00 points \(95 % interval -7\.\d+ to -2\.\d+\), where at"
        r" least -0\.2 points is allowed",
    )
    assert sorted(path.name for path in old.parent.iterdir()) == ["new.json", "old.json"]


def test_gate_lets_pass_what_is_within_the_rules(old: Path) -> None:
    slower = with_accuracy(measured_bundle("runs/signs/int8-cpu", factor=1.04), 1800)
    outcome = gate(old, slower, "p50>+5%,p99>+5%,top1<-0.2,size>+0%")(done)
    assert "int8-cpu is worse than its baseline: p50 +4.0 %.\n" in outcome.err  # type: ignore[attr-defined]


def test_gate_lets_pass_what_may_be_noise(old: Path) -> None:
    same = with_accuracy(replace(BUNDLE, latency=scaled(BUNDLE.latency, 1.01)), 1790)
    outcome = gate(old, same, "p50>+0%,p99>+0%,top1<-0.2")(done)
    assert "Nothing that changed since the baseline can be told from noise.\n" in outcome.err  # type: ignore[attr-defined]
    assert "no difference" in outcome.err  # type: ignore[attr-defined]


def test_gate_tells_what_is_too_unsteady_to_judge(old: Path) -> None:
    rounds = [tuple(ms * (1.3 if i % 3 else 1.0) for ms in times) for i, times in enumerate(BUNDLE.latency.rounds_ms)]
    unsteady = replace(BUNDLE, latency=samples(rounds))
    before = written(old.parent, "unsteady.json", unsteady)
    outcome = done("report", before, "--baseline", before, "--fail-if", "p50>+5%,p90>+40%,p50>+1%", cwd=old.parent)
    told = [line for line in outcome.err.splitlines() if "too unsteady to tell" in line]
    assert len(told) == 1
    assert told[0].startswith("int8-cpu: p50 ")
    assert told[0].endswith(": too unsteady to tell whether at most +5 % holds; measure both with more --rounds")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("throughput<-9%", "unsteady to tell whether at least -9 % holds; measure both with --rounds of 100 and more"),
        ("cold_start>+5%", "unsteady to tell whether at most +5 % holds; measure both with --rounds of 100 and more"),
        ("energy>+5%", "unsteady to tell whether at most +5 % holds; measure both while nothing else runs"),
        (
            "top1<-0.2",
            "few images to tell whether at least -0.2 points holds; give the answers of both (eval --out), on more",
        ),
        ("top1<-0", ""),
        ("throughput<-1%", ""),
        ("memory>+5%", ""),
    ],
)
def test_gate_tells_what_it_cannot_decide_and_what_would_help(rule: str, words: str, tmp_path: Path) -> None:
    unsteady = on_a_jetson(one(with_accuracy(BUNDLE, 1800))).bundles[0]
    assert unsteady.energy is not None
    slow = [(13.0 if i % 4 > 1 else 10.0,) for i in range(10)]
    unsteady = replace(
        unsteady,
        energy=replace(unsteady.energy, turns_mj=(33.0, 40.0, 33.0)),
        cold_starts=tuple(replace(s, load_ms=50.0 * (1 + i % 2)) for i, s in enumerate(BUNDLE.cold_starts)),
        throughput=tuple(replace(batch, latency=samples(slow)) for batch in BUNDLE.throughput),
    )
    before = written(tmp_path, "before.json", unsteady)
    accuracy = with_accuracy(BUNDLE, 1799).accuracy
    after = written(tmp_path, "after.json", replace(unsteady, accuracy=accuracy))
    outcome = done("report", after, "--baseline", before, "--fail-if", rule, cwd=tmp_path)
    told = [line for line in outcome.err.splitlines() if " to tell whether " in line]
    assert len(told) == bool(words)
    assert all(f": too {words}" in line for line in told)


def test_gate_is_sure_of_a_model_that_gives_the_same_answers(tmp_path: Path) -> None:
    """However few the images are."""
    same = answered(lost=0)
    [pair] = judge(material(one(BUNDLE), answers=(same,)), material(one(BUNDLE), answers=(same,)))
    [top1] = [change for change in pair.changes if change.metric is Metric.TOP1]
    assert not Rule(Metric.TOP1, Side.BELOW, -0.2).undecided_by(top1)


def test_gate_cannot_decide_what_lies_beyond_the_limit_and_is_not_told_from_chance() -> None:
    """9 of 50 images lost and 2 gained: the interval of the change ends below the limit, and McNemar's p is 0.07."""
    change = Change(Metric.TOP1, 90.0, 76.0, -14.0, Interval(-26.6, -0.37), real=False)
    rule = Rule(Metric.TOP1, Side.BELOW, -0.2)
    assert (rule.broken_by(change), rule.undecided_by(change)) == (False, True)


def test_gate_takes_no_other_notes_in_a_manifest_for_another_size(old: Path) -> None:
    noted = replace(BUNDLE, bundle_bytes=BUNDLE.bundle_bytes + 60)
    assert "Nothing that changed" in gate(old, noted, "size>+0%")(done).err  # type: ignore[attr-defined]
    larger = replace(BUNDLE, bundle_bytes=round(1.01 * BUNDLE.bundle_bytes))
    refused(gate(old, larger, "size>+0%")(gnet_edge), r"int8-cpu: size \S+ → \S+ MB, \+1\.0 %, where at most \+0 % .*")  # type: ignore[arg-type]


def test_gate_shows_the_doubts_about_the_baseline_and_what_it_did_not_compare(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", replace(measured(), warnings=("the GPU's clock moves",)))
    write_json(tmp_path / "new.json", one(BUNDLE))
    outcome = done("report", "new.json", "--baseline", "old.json", "-o", "page.html", "--json", cwd=tmp_path)
    doubt = "old.json: the GPU's clock moves"
    assert f"warning: {doubt}\n" in outcome.err
    assert json.loads(outcome.out)["warnings"] == [doubt]
    page = html.unescape((tmp_path / "page.html").read_text())
    assert doubt in page
    assert "runs/signs/fp32-cpu (onnxruntime) of the baseline was not measured now, and is not compared" in page


def test_gate_refuses_rules_where_a_bundle_of_the_baseline_is_missing(tmp_path: Path) -> None:
    write_json(tmp_path / "old.json", measured(FP32, BUNDLE))
    other = replace(BUNDLE, engine=replace(BUNDLE.engine, backend="openvino"))
    write_json(tmp_path / "new.json", measured(FP32, other))
    command = ("report", "new.json", "--baseline", "old.json")
    refused(
        gnet_edge(*command, "--fail-if", "p50>+5%", cwd=tmp_path),
        r"not measured now, but in the baseline: runs/signs/int8-cpu \(onnxruntime\); measure the same bundles with the"
        " same engines, or leave them out with --force",
    )
    assert "no difference" in done(*command, "--fail-if", "p50>+5%", "--force", cwd=tmp_path).err
    outcome = done(*command, "--json", cwd=tmp_path)
    missing = "runs/signs/int8-cpu (onnxruntime)"
    assert f"{missing} of the baseline was not measured now, and is not compared\n" in outcome.err
    new = "runs/signs/int8-cpu (openvino)"
    assert f"{new} is not in the baseline, and is not compared\n" in outcome.err
    found = json.loads(outcome.out)
    assert (found["missing"], found["new"]) == ([missing], [new])
    assert "was not measured now" not in done("report", "old.json", "--baseline", "old.json", cwd=tmp_path).err


def test_gate_prints_its_findings_as_json_where_a_rule_is_broken(old: Path) -> None:
    rules = "p50>+5%,top1<-3"
    outcome = gate(old, with_accuracy(measured_bundle("runs/signs/int8-cpu", factor=1.5), 1770), rules, "--json")(
        gnet_edge
    )
    found = json.loads(outcome.out)  # type: ignore[attr-defined]
    assert outcome.code == 1  # type: ignore[attr-defined]
    assert [text.split(" 4")[0] for text in found["broken"]] == ["int8-cpu: p50"]
    assert ["too few images to tell" in text for text in found["undecided"]] == [True]
    assert found["verdict"]["headline"].startswith("int8-cpu is worse than its baseline: p50 +50.0 %")


def test_gate_prints_every_pair_of_two_baselines_as_json(old: Path) -> None:
    written(old.parent, "older.json", measured_bundle("runs/signs/int8-cpu", factor=1.1))
    outcome = done("report", "old.json", "--baseline", "old.json", "--baseline", "older.json", "--json", cwd=old.parent)
    found = json.loads(outcome.out)["changes"]
    pairs = [("int8-cpu (old)", "int8-cpu"), ("int8-cpu (older)", "int8-cpu")]
    assert [(pair["before"], pair["bundle"]) for pair in found] == pairs
    assert [pair["changes"][0]["change"] for pair in found] == [0, pytest.approx(100 / 1.1 - 100)]


def test_gate_writes_the_page_before_it_fails(old: Path) -> None:
    gate(old, measured_bundle("runs/signs/int8-cpu", factor=1.5), "p50>+5%", "-o", "page.html")(gnet_edge)
    page = (old.parent / "page.html").read_text()
    assert "int8-cpu is worse than its baseline: p50 +50.0 %." in page
    assert "and are 1.75 % wider on either side" in page


@pytest.mark.parametrize(
    ("rule", "takes"),
    [
        ("top1<-0.2", ", which takes an accuracy on both, simulated on both or on neither"),
        ("p99.9>+5%", ", which takes at least 1,000 samples"),
        ("energy>+5%", ", which takes at least 2 turns on a machine with sensors"),
        ("cold_start>+5%", ", which takes at least 2 cold starts"),
    ],
)
def test_gate_cannot_judge_what_was_not_measured(old: Path, rule: str, takes: str) -> None:
    started_once = replace(BUNDLE, cold_starts=BUNDLE.cold_starts[:1])
    name = rule.split("<", maxsplit=1)[0].split(">", maxsplit=1)[0]
    sentence = f"{name} of int8-cpu was not measured on both sides{takes}; leave the rule out, or measure it"
    refused(gate(old, started_once, rule)(gnet_edge), sentence)  # type: ignore[arg-type]


def test_gate_needs_a_baseline(old: Path) -> None:
    outcome = gnet_edge("report", old, "--fail-if", "p50>+5%", cwd=old.parent)
    assert outcome.code == 2
    assert "give --baseline" in outcome.err


# What is not compared


def elsewhere(folder: Path) -> Path:
    found = one(measured_bundle("runs/signs/int8-cpu"))
    there = replace(found.circumstances, cpu_model="Cortex-A78AE", cores=6, packages={"onnxruntime": "1.32.0"})
    there = replace(there, governor="powersave")
    other = replace(BUNDLE, engine=replace(BUNDLE.engine, backend="tensorrt", device=Device.ORIN_NX, threads=4))
    write_json(folder / "elsewhere.json", replace(found, circumstances=there, bundles=(other,)))
    return folder / "elsewhere.json"


def test_gate_refuses_other_circumstances_unless_it_is_forced(old: Path) -> None:
    other = elsewhere(old.parent)
    arguments = ("report", other, "--baseline", old, "--fail-if", "p50>+5%")
    refused(
        gnet_edge(*arguments, cwd=old.parent),
        r"\S+old\.json and \S+elsewhere\.json were measured in different circumstances: cpu_model AMD EPYC against"
        r" Cortex-A78AE, cores 2 against 6, governor None against powersave, engine onnxruntime against tensorrt,"
        r" device cpu against orin-nx, threads 1 against 4; measure both in the same ones, or compare all the same with"
        r" --force",
    )
    assert "Nothing that changed" in done(*arguments, "--force", cwd=old.parent).err
    larger = replace(one(BUNDLE), image=replace(one(BUNDLE).image, width=6000, height=4000))
    write_json(old.parent / "larger.json", larger)
    refused(
        gnet_edge("report", "larger.json", "--baseline", "old.json", cwd=old.parent),
        r"old\.json and larger\.json .* circumstances: image 640×480 against 6000×4000; .*",
    )


def test_gate_refuses_other_power_modes_and_clocks(tmp_path: Path) -> None:
    first = on_a_jetson(one(BUNDLE))
    jetson = first.circumstances.jetson
    assert jetson is not None
    assert jetson.gpu_clock is not None
    moved = replace(jetson, gpu_clock=replace(jetson.gpu_clock, now_mhz=400))
    locked = replace(jetson, power_mode="25W", gpu_clock=replace(jetson.gpu_clock, low_mhz=624))
    for name, found in (("first", jetson), ("moved", moved), ("locked", locked)):
        there = replace(first.circumstances, jetson=found)
        write_json(tmp_path / f"{name}.json", replace(first, circumstances=there))
    done("report", "moved.json", "--baseline", "first.json", cwd=tmp_path)
    refused(
        gnet_edge("report", "locked.json", "--baseline", "first.json", cwd=tmp_path),
        r"first\.json and locked\.json .* power mode 15W against 25W, GPU clock \(306, 624\) against \(624, 624\); .*",
    )
    write_json(tmp_path / "none.json", replace(first, circumstances=replace(first.circumstances, jetson=None)))
    refused(
        gnet_edge("report", "none.json", "--baseline", "first.json", cwd=tmp_path),
        r"first\.json and none\.json .* circumstances: Jetson NVIDIA Jetson Orin Nano against None; .*",
    )


def test_gate_refuses_another_gpu_where_the_gpu_computes(tmp_path: Path) -> None:
    spec = replace(BUNDLE.engine, backend="onnxruntime-cuda", device=Device.CUDA)
    for engine, folder in ((BUNDLE.engine, "processor"), (spec, "gpu")):
        for gpu in ("NVIDIA L4", "NVIDIA H200"):
            found = one(replace(BUNDLE, engine=engine))
            packages = found.circumstances.packages | {"nvidia-driver": f"that of {gpu}"}
            there = replace(found, circumstances=replace(found.circumstances, gpu=gpu, packages=packages))
            write_json(tmp_path / f"{folder} {gpu}.json", there)
    outcome = done("report", "processor NVIDIA H200.json", "--baseline", "processor NVIDIA L4.json", cwd=tmp_path)
    assert "nvidia-driver" not in outcome.err
    refused(
        gnet_edge("report", "gpu NVIDIA H200.json", "--baseline", "gpu NVIDIA L4.json", cwd=tmp_path),
        r".*were measured in different circumstances: GPU NVIDIA L4 against NVIDIA H200; .*",
    )


def test_gate_refuses_a_gpu_against_a_dla_and_the_page_says_which_is_which(tmp_path: Path) -> None:
    spec = replace(BUNDLE.engine, backend="tensorrt", version="10.3.0", device=Device.AGX_ORIN)
    for name, unit in (("gpu", Unit.MAIN), ("dla", Unit.DLA)):
        write_json(tmp_path / f"{name}.json", one(replace(BUNDLE, engine=replace(spec, unit=unit))))
    refused(
        gnet_edge("report", "dla.json", "--baseline", "gpu.json", cwd=tmp_path),
        r"gpu\.json and dla\.json were measured in different circumstances: unit main against dla; .*",
    )
    done("report", "gpu.json", "dla.json", "-o", "page.html", cwd=tmp_path)
    page = (tmp_path / "page.html").read_text()
    assert page.count("tensorrt 10.3.0 on the DLA") == 1
    assert page.count("tensorrt 10.3.0") == 2


def test_gate_compares_other_versions_and_tells_which(old: Path) -> None:
    found = one(BUNDLE)
    packages = {**found.circumstances.packages, "onnxruntime": "1.32.0"}
    newer = replace(found, circumstances=replace(found.circumstances, packages=packages))
    write_json(old.parent / "newer.json", newer)
    done("report", "newer.json", "--baseline", old, "-o", "page.html", cwd=old.parent)
    assert "onnxruntime 1.31.1 against 1.32.0" in (old.parent / "page.html").read_text()


def test_judge_refuses_bundles_that_do_not_belong_together() -> None:
    old, new = material(measured(), "old.json"), material(one(measured_bundle("other")), "new.json")
    with pytest.raises(DataError, match=r"old.json and new.json have no bundle of the same name \(fp32-cpu, int8-cpu"):
        judge(old, new)
    half = material(one(measured_bundle("runs/signs/int8-cpu", Precision.FP16)))
    with pytest.raises(DataError, match="int8-cpu is fp16 of 224×224 pixels and 9 classes now, and was int8"):
        judge(material(one(BUNDLE)), half)


def test_gate_takes_answers_beside_the_measurements(tmp_path: Path) -> None:
    for name, lost in (("old", 0), ("new", 20)):
        written(tmp_path, f"{name}.json", BUNDLE)
        write_json(tmp_path / f"{name}-answers.json", answered(lost=lost, gained=0))
    outcome = gnet_edge(
        "report", "new.json", "new-answers.json", "--baseline", "old.json", "--baseline", "old-answers.json",
        "--fail-if", "top1<-0.2", cwd=tmp_path,
    )  # fmt: skip
    refused(outcome, r"int8-cpu: top-1 \S+ → \S+ %, -5\.56 points \(95 % interval \S+ to \S+\), where at least .*")
