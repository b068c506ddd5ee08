"""The ranking of layers by what rounding them costs, and the budget that leaves the worst of them in float."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Built, copy_of, done
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from tiny_graph import CROP, table_of, tiny_graph

from googlenet_edge.calibration.placement import layers
from googlenet_edge.dataset import ImageSet, Progress
from googlenet_edge.engines import sensitivity
from googlenet_edge.engines.lowering import Lowered, lower
from googlenet_edge.engines.recovery import Judge, fewest, within_budget
from googlenet_edge.engines.registry import backends_for
from googlenet_edge.engines.sensitivity import Noise, Probe, noise, rank_layers, try_layers
from googlenet_edge.errors import AccuracyError
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.target import Device, Precision

OUTLIER = 1000.0


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    yield lambda *_: None


def pixels(count: int, *, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, CROP // 4, CROP // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def hard_graph(*hard: str) -> InferenceGraph:
    """The tiny graph with one channel of some layers a thousand times larger, and its readers' weights smaller.

    It computes the same, but one grid for all channels is then too coarse for the others. The classes are balanced.
    """
    graph = tiny_graph()
    tensors = {w.name: w for w in graph.model.graph.initializer}
    values = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tensors.items()}
    readers = {"stem": ("left_weight", "right_weight"), "left": ("fc_weight",)}
    for name in hard:
        values[f"{name}_weight"][0] *= OUTLIER
        values[f"{name}_bias"][0] *= OUTLIER
        for reader in readers[name]:
            values[reader][:, 0] /= OUTLIER
    store(tensors, values)
    values["fc_bias"] -= Probe(graph, pixels(48), threads=1)._exact.mean(axis=0)
    store(tensors, values)
    return replace(graph)


def store(tensors: dict, values: dict) -> None:
    for name, tensor in tensors.items():
        tensor.CopyFrom(numpy_helper.from_array(values[name], name))


def fp32_of(graph: InferenceGraph) -> Lowered:
    return lower(graph, device=Device.CPU, precision=Precision.FP32, table=None)


def images_of(graph: InferenceGraph, folder: Path, *, count: int = 48) -> ImageSet:
    """Image files of which FP32 gets every class right."""
    shown = pixels(count)
    with Probe(graph, shown, threads=1).open(fp32_of(graph)) as fp32:
        labels = fp32.run(shown).argmax(axis=1)
    assert len(set(labels.tolist())) > 1
    paths = tuple(folder / f"{i}.png" for i in range(count))
    for path, image in zip(paths, shown, strict=True):
        Image.fromarray(image).save(path)
    return ImageSet(folder, graph.class_names, paths, tuple(labels.tolist()))


def judge_of(graph: InferenceGraph, images: ImageSet, *, max_drop_points: float = 1.0) -> Judge:
    return Judge(
        graph,
        table_of(graph),
        Device.CPU,
        Precision.INT8,
        images,
        backends_for(Device.CPU)[:1],
        bars=silent,
        threads=1,
        timed_threads=1,
        max_drop_points=max_drop_points,
    )


def test_noise_is_the_power_of_the_error_over_that_of_the_signal() -> None:
    exact = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    found = np.array([[3.0, 4.0], [0.5, 0.0]], np.float32)
    assert noise(exact, found) == Noise(power=25.25 / 50, flips=1)
    assert Noise(0.001, 0).sqnr_db == pytest.approx(30)
    assert noise(exact, exact).sqnr_db == math.inf


def test_rank_layers_puts_the_layer_with_an_outlier_first() -> None:
    for hard, worst in (("stem", "stem"), ("left", "block")):
        graph = hard_graph(hard)
        ranked = rank_layers(Probe(graph, pixels(24), threads=1), table_of(graph))
        assert ranked[0].layer.name == worst
        assert len(ranked) == 4
        assert ranked[0].noise.power > 10 * ranked[-1].noise.power


def test_rank_layers_finds_noise_that_adds_up_to_that_of_all() -> None:
    graph, table = tiny_graph(), table_of(tiny_graph())
    probe = Probe(graph, pixels(64), threads=1)
    rounded = sum(each.noise.power for each in rank_layers(probe, table))
    with probe.open(lower(graph, device=Device.CPU, precision=Precision.INT8, table=table)) as whole:
        assert 0.3 < rounded / probe.noise(whole).power < 1.5  # the weights' share is missing


def test_try_layers_shows_that_leaving_the_layer_in_float_recovers_its_noise() -> None:
    graph = hard_graph("stem")
    table, probe = table_of(graph), Probe(graph, pixels(24), threads=1)
    times = iter(range(10**9))
    told: list[tuple[int, int]] = []
    ranked = rank_layers(probe, table)
    found = try_layers(probe, table, ranked, progress=lambda *at: told.append(at), clock=lambda: 1e-3 * next(times))
    assert found.sqnr_db < 20
    assert [row.layer for row in found.layers] == [each.layer.name for each in ranked]
    assert found.layers[0].layer == "stem"
    assert found.layers[0].noise_share > 0.5
    assert found.sqnr_db + found.layers[0].gain_db > 30
    assert all(abs(row.gain_db) < 3 for row in found.layers[1:])
    assert found.latency_ms == pytest.approx(1.0)  # every look at the clock is a millisecond later
    assert [row.slowdown for row in found.layers] == pytest.approx([1.0] * 4)
    assert told == [(i, 4) for i in (1, 2, 3, 4)]


@given(st.integers(1, 100), st.integers(1, 120))
def test_fewest_finds_the_smallest_count_with_few_attempts(most: int, needed: int) -> None:
    asked: list[int] = []

    def attempt(count: int) -> int | None:
        asked.append(count)
        return count if count >= needed else None

    assert fewest(attempt, most) == (needed if needed <= most else None)
    assert max(asked) <= most
    assert len(asked) == len(set(asked)) <= 2 * math.log2(most) + 1


def test_budget_is_kept_by_leaving_exactly_the_hard_layer_in_float(tmp_path: Path) -> None:
    graph = hard_graph("stem")
    images = images_of(graph, tmp_path)
    judge = judge_of(graph, images)
    whole = judge.judged()
    assert whole.against_fp32 is not None
    assert whole.against_fp32.top1_change_points < -10
    found = within_budget(judge, held_out=lambda: images)
    assert found.float_layers == ("stem",)
    assert found.against_fp32 is not None
    assert found.against_fp32.top1_change_points >= -1
    assert found.lowered.notes[0] == "on integers: 0 of 3 Conv, 0 of 1 MaxPool, 1 of 1 Concat"


def test_budget_that_holds_leaves_nothing_in_float_and_ranks_nothing(tmp_path: Path) -> None:
    graph = tiny_graph()
    images = images_of(hard_graph(), tmp_path)

    def never() -> ImageSet:
        raise AssertionError("asked for images to rank on")

    found = within_budget(judge_of(graph, images, max_drop_points=100.0), held_out=never)
    assert found.float_layers == ()


def test_budget_that_cannot_be_met_says_what_was_tried(tmp_path: Path) -> None:
    graph = hard_graph("stem", "left")  # of four layers three are hard, and only half may stay float
    images = images_of(graph, tmp_path)
    sentence = (
        r"int8 on \d+ images: top-1 changes by -\d+\.\d\d points \(95 % .*\); .* equal; at most -1 points are allowed;"
        r" with the worst 2 layers in float it is -\d+\.\d\d; no bundle was written\."
        r" Calibrate on more images or with another --method, or allow more with --max-drop"
    )
    with pytest.raises(AccuracyError) as problem:
        within_budget(judge_of(graph, images), held_out=lambda: images)
    assert re.fullmatch(sentence, str(problem.value)), problem.value


def test_loss_that_may_be_chance_is_called_so(tmp_path: Path) -> None:
    graph = tiny_graph()
    images = images_of(hard_graph(), tmp_path)
    with pytest.raises(AccuracyError, match=r"^int8 on 48 images: .* not told from chance"):
        within_budget(judge_of(graph, images, max_drop_points=-100.0), held_out=lambda: images)


def test_sensitivity_shows_every_layer(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = copy_of(built.folder, tmp_path / "work")
    monkeypatch.setattr(sensitivity, "layers", lambda graph: layers(graph)[-2:])
    monkeypatch.setattr(sensitivity, "_ROUNDS", 6)
    outcome = done("sensitivity", "--images", "8", "--threads", "1", "--json", cwd=work)
    found = json.loads(outcome.out)
    assert (found["images"], found["threads"]) == (8, 1)
    assert {row["layer"] for row in found["layers"]} == {"inception5b.branch3.0", "avgpool"}
    assert found["layers"][0]["noise_share"] > found["layers"][1]["noise_share"]
    assert found["latency_ms"] > 0
    for row in found["layers"]:
        assert re.search(rf"^{row['layer']} +{row['noise_share']:.1%} +{row['flips']} ", outcome.err, re.MULTILINE)
    assert re.search(
        r"^int8: SQNR \d+\.\d dB, \d of 8 predictions differ from fp32, .* with 1 threads$", outcome.err, re.M
    )
