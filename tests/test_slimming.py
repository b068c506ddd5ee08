"""``gnet-edge slim``: as much faster as was asked for, by the clock; a checkpoint like any other; nothing lost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Outcome, contents, copy_of, done, gnet_edge, refused_without_a_trace
from hypothesis import given
from hypothesis import strategies as st
from networks import NARROW, SMALL, made_checkpoint
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_bundles import hide_openvino, solid, write_colour_bundle

from googlenet_edge.augment import Augmentation
from googlenet_edge.checkpoint import (
    Checkpoint,
    TrainingRecord,
    build_model,
    is_auxiliary,
    read_checkpoint,
    write_checkpoint,
)
from googlenet_edge.dataset import ImageSet, Progress, open_dataset
from googlenet_edge.engines import slimming, stopwatch
from googlenet_edge.engines.accuracy import Evaluation
from googlenet_edge.engines.bundle import read_bundle
from googlenet_edge.engines.lowering import Lowered
from googlenet_edge.engines.predictor import Predictor
from googlenet_edge.engines.registry import BACKENDS, Backend, backend_for
from googlenet_edge.engines.slimming import SlimReport, fewest_removals, removals_for
from googlenet_edge.engines.stopwatch import STAGES, Stopwatch, Target, ms_per_mac
from googlenet_edge.engines.timing import Ratio
from googlenet_edge.errors import ConfigError
from googlenet_edge.export import export, inference_cost, prune
from googlenet_edge.files import from_json, sha256_file
from googlenet_edge.graph import InferenceGraph
from googlenet_edge.model import GoogLeNet, Widths
from googlenet_edge.pictograms import write_pictograms
from googlenet_edge.reports import StoppedError
from googlenet_edge.slim import LatencyModel, convolution_widths, macs_a_channel_pair, slimmed
from googlenet_edge.statistics import Interval
from googlenet_edge.target import Device, Precision
from googlenet_edge.training_loop import TrainingData
from googlenet_edge.workspace import RunRecord, read_run_record, write_run_record

CHECKPOINT = "runs/photos/checkpoint.safetensors"
TRAINED = TrainingRecord(1, 48, "", "", 0.5, 1.0, 1.0, augmentation=Augmentation(0.7, flip=False))
BRIEFLY = ("--precision", "fp32", "--epochs", "1", "--batch-size", "32", "--workers", "0")
FP32 = Target(Precision.FP32, backend_for(Device.CPU), 1)
SLIM = ("slim", CHECKPOINT, "--data", "photos", *BRIEFLY)


@dataclass
class Machine:
    """A processor that takes a nanosecond for each byte of a model, and a clock that shows it."""

    now: float = 0.0
    opened: list[tuple[Lowered, Backend, int]] = field(default_factory=list)
    seconds: Callable[[InferenceGraph, Lowered], float] = lambda _, lowered: len(lowered.model) * 1e-9
    noise: Iterator[float] = field(default_factory=lambda: repeat(1.0))
    open_now: int = 0

    def clock(self) -> float:
        return self.now

    def open(self, graph: InferenceGraph, lowered: Lowered, *, backend: Backend, threads: int) -> Predictor:
        self.opened.append((lowered, backend, threads))
        self.open_now += 1
        return _Timed(self, self.seconds(graph, lowered))  # type: ignore[return-value]


class _Timed:
    """What `Stopwatch` needs of a predictor."""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine, self._seconds = machine, seconds

    def __enter__(self) -> _Timed:
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.open_now -= 1

    def run(self, pixels: NDArray[np.uint8]) -> None:
        assert pixels.dtype == np.uint8 and len(pixels) == 1
        self._machine.now += self._seconds * next(self._machine.noise)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def evenly(self: Stopwatch, importance: dict[str, NDArray[np.float64]], *, progress: Progress) -> LatencyModel:
    """A latency model that has timed no stage."""
    del importance, progress
    return LatencyModel(macs_a_channel_pair(self._original.info), dict.fromkeys(STAGES, 1.0))


@contextmanager
def made_machine() -> Iterator[Machine]:
    """All candidates are timed on it, by its clock."""
    made = Machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "open_lowered", made.open)
        patch.setattr(Stopwatch, "latency_model", evenly)
        patch.setattr(slimming, "slim", partial(slimming.slim, clock=made.clock))
        yield made


@pytest.fixture
def machine() -> Iterator[Machine]:
    with made_machine() as made:
        yield made


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as after a training, of a small network. Tests that write take a copy."""
    folder = tmp_path_factory.mktemp("slimming")
    write_pictograms(folder / "photos", train_per_class=4, val_per_class=2, size=40)
    write_checkpoint(folder / CHECKPOINT, for_photos(SMALL, folder))
    write_run_record(folder / "runs" / "photos", RunRecord(str(folder / "photos"), 3))
    return folder


def for_photos(widths: Widths, folder: Path) -> Checkpoint:
    made = made_checkpoint(classes=12, widths=widths)
    names = open_dataset(folder / "photos").train.class_names
    return replace(made, info=replace(made.info, class_names=names, training=TRAINED))


# The search


@given(
    most=st.integers(1, 2000),
    wanted=st.floats(0.05, 0.95),
    bend=st.floats(0.5, 2.0),
)
def test_fewest_removals_are_enough_and_hardly_too_many(most: int, wanted: float, bend: float) -> None:
    asked: list[int] = []

    def ratio(count: int) -> float:
        asked.append(count)
        return 1 - (1 - wanted / 2) * (count / most) ** bend

    found = fewest_removals(wanted, ratio, too_few=0, enough=most)
    assert ratio(found) <= wanted
    assert ratio(found - 1) > wanted or ratio(found) >= 0.99 * wanted
    assert len(asked) <= most.bit_length() + 3


@pytest.mark.parametrize("lie", [0.6, 1.0, 1.7])
def test_removals_that_noise_misled_to_are_searched_again(lie: float) -> None:
    """The first search sees a machine that seems faster or slower than it is; a closer look does not."""
    asked: list[int] = []

    def truth(count: int) -> float:
        return 1 - 0.9 * count / 1000

    def ratio(count: int) -> float:
        asked.append(count)
        return truth(count) * (lie if len(asked) <= 12 else 1)

    def confirm(count: int) -> Interval:
        return Interval(truth(count) * 0.99, truth(count) * 1.01)

    assert truth(removals_for(0.5, ratio, confirm, most=1000)) == pytest.approx(0.5, rel=0.011)


def test_removals_that_are_never_confirmed_end_the_search() -> None:
    assert removals_for(0.5, lambda _: 0.4, lambda _: Interval(0.8, 0.9), most=100) == 3


def test_ms_per_mac_believes_no_noise() -> None:
    """Stages that seem to save nothing, or time that is not theirs, stay within twice and half of the mean of all."""
    assert ms_per_mac([4.0, 1.0, -1.0, 396.0], [100, 100, 100, 100]) == [0.5, 0.5, 0.5, 2.0]
    assert ms_per_mac([1.0, 1.0, 18.0], [100, 100, 0]) == [0.05, 0.05, 0.1]
    assert ms_per_mac([-1.0, 0.5], [100, 100]) == [1.0, 1.0]
    assert ms_per_mac([-0.5, 0.5], [100, 100]) == [1.0, 1.0]
    assert ms_per_mac([0.0, 0.0], [0, 0]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ratio", "low", "high", "sentence"),
    [
        (0.66, 0.65, 0.67, None),
        (0.67, 0.66, 0.68, None),
        (0.72, 0.70, 0.74, r"slim 1\.5 takes 0\.720 of the time \(95 % interval 0\.700 to 0\.740\) and not 0\.667; .*"),
        (
            0.66,
            0.60,
            0.72,
            r"slim 1\.5 takes 0\.600 to 0\.720 of the time, which is vague; measure again while nothing .*",
        ),
    ],
)
def test_doubt_says_where_the_measurement_is_not_what_was_asked_for(
    ratio: float, low: float, high: float, sentence: str | None
) -> None:
    found = slimming.doubt(1.5, Ratio(ratio, Interval(low, high)))
    assert found is None if sentence is None else found and re.fullmatch(sentence, found)


# The stopwatch


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_stopwatch_times_what_a_bundle_would_run(precision: Precision, machine: Machine, work: Path) -> None:
    checkpoint, engine = made_checkpoint(widths=SMALL), BACKENDS[1]
    images = open_dataset(work / "photos").train
    watch = Stopwatch(checkpoint, Target(precision, engine, 2), images, clock=machine.clock)
    slim = slimmed(checkpoint, dict.fromkeys(convolution_widths(SMALL), tuple(range(8))))
    speed = watch.speed(slim)
    (original, *how), (other, *how_other) = machine.opened
    assert machine.open_now == 0
    assert how == how_other == [engine, 2]
    assert watch.fastest_ratio(slim) == pytest.approx(len(other.model) / len(original.model), abs=1e-6)
    assert speed.ratio.ratio == pytest.approx(len(other.model) / len(original.model), abs=1e-6)
    assert (speed.original_ms, speed.slim_ms) == pytest.approx((len(original.model) / 1e6, len(other.model) / 1e6))
    assert (b"QuantizeLinear" in other.model) == (precision is Precision.INT8)


def test_stopwatch_goes_on_where_the_machine_is_unsteady(machine: Machine, work: Path) -> None:
    """For more rounds; what is told is what most runs take, not the quickest."""
    checkpoint = made_checkpoint(widths=NARROW)
    watch = Stopwatch(checkpoint, FP32, open_dataset(work / "photos").train, clock=machine.clock)
    runs = count()
    machine.seconds = lambda _, lowered: len(lowered.model) * 1e-6
    machine.noise = (1.0 for _ in runs)
    watch.speed(checkpoint)
    steady, random = next(runs), np.random.default_rng(0)
    machine.noise = (random.choice([0.5, 0.9, 1, 1.1, 2]) for _ in runs)
    speed = watch.speed(checkpoint)
    assert next(runs) > 4 * steady
    assert speed.original_ms == pytest.approx(len(machine.opened[0][0].model) / 1e3) == speed.slim_ms
    assert 0.02 < speed.ratio.interval.high - speed.ratio.interval.low < 0.2
    machine.noise = (1 + random.exponential() for _ in runs)
    assert watch.fastest_ratio(checkpoint) == pytest.approx(1, rel=0.05)


def test_latency_model_finds_where_the_time_goes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that takes a microsecond for each multiplication, and nearly twice as long in one block."""
    checkpoint = made_checkpoint(widths=SMALL)
    macs = macs_a_channel_pair(checkpoint.info)

    def seconds(graph: InferenceGraph, _: Lowered) -> float:
        weights = {weight.name: weight.dims for weight in graph.model.graph.initializer}
        taken = {name: weights[f"{name}.conv.weight"] for name in macs}
        rates = {name: 1.8e-6 if name.startswith("inception4c") else 1e-6 for name in macs}
        return sum(rates[name] * macs[name] * cout * cin for name, (cout, cin, *_) in taken.items())

    machine = Machine(seconds=seconds)
    monkeypatch.setattr(stopwatch, "open_lowered", machine.open)
    watch = Stopwatch(checkpoint, FP32, open_dataset(work / "photos").train, clock=machine.clock)
    importance = {name: np.ones(width) for name, width in convolution_widths(SMALL).items()}
    shown: list[tuple[int, int]] = []
    model = watch.latency_model(importance, progress=lambda *each: shown.append(each))
    assert list(model.ms_per_mac) == list(STAGES)
    elsewhere = [ms for stage, ms in model.ms_per_mac.items() if stage not in ("inception4b", "inception4c")]
    assert elsewhere == pytest.approx([1e-3] * 8)
    assert 1e-3 < model.ms_per_mac["inception4b"] < model.ms_per_mac["inception4c"] < 1.8e-3, "it reads the one before"
    assert shown[-1][0] == shown[-1][1] == len(shown)


def test_stopwatch_really_runs_what_it_times(work: Path) -> None:
    """On this machine, by its own clock."""
    checkpoint = made_checkpoint(widths=SMALL)
    watch = Stopwatch(checkpoint, FP32, open_dataset(work / "photos").train)
    speed = watch.speed(checkpoint)
    assert watch.fastest_ratio(checkpoint) > 0
    assert 0 < speed.ratio.interval.low <= speed.ratio.ratio <= speed.ratio.interval.high
    assert min(speed.slim_ms, speed.original_ms) > 0


# The command


@dataclass(frozen=True, slots=True)
class Slimmed:
    """A working folder after ``gnet-edge slim``, and what that said."""

    folder: Path
    outcome: Outcome

    def checkpoint(self, name: str) -> Checkpoint:
        return read_checkpoint(self.folder / "runs" / "photos" / name)


@pytest.fixture(scope="module")
def slim(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Slimmed:
    folder = copy_of(work, tmp_path_factory.mktemp("slim") / "work")
    with made_machine():
        return Slimmed(folder, done(*SLIM, "--speedup", "2", "--speedup", "1.3", "--json", cwd=folder))


def test_slim_is_as_much_faster_as_was_asked_for(slim: Slimmed) -> None:
    report = json.loads(slim.outcome.out)
    assert [point["speedup"] for point in report["points"]] == [1.3, 2]
    for point in report["points"]:
        ratio = point["speed"]["ratio"]
        assert 0.98 <= ratio["ratio"] * point["speedup"] <= 1
        assert ratio["interval"]["low"] <= ratio["ratio"] <= ratio["interval"]["high"]
        assert point["speed"]["slim_ms"] == pytest.approx(ratio["ratio"] * point["speed"]["original_ms"])
        assert point["doubt"] is None
        assert point["cost"]["macs"] < report["cost"]["macs"]


def test_slim_writes_checkpoints_that_name_their_parent(slim: Slimmed) -> None:
    parent = slim.checkpoint("checkpoint.safetensors")
    for folder in ("slim-1.3", "slim-2"):
        child = slim.checkpoint(f"{folder}/checkpoint.safetensors")
        assert child.info.training is not None
        assert (child.info.training.parent_sha256, child.info.training.images) == (parent.sha256, 48)
        assert child.info.training.augmentation == TRAINED.augmentation
        assert replace(child.info, training=TRAINED, widths=parent.info.widths) == parent.info
        widths = convolution_widths(child.info.widths)
        assert all(width % 8 == 0 for width in widths.values())
        assert sum(widths.values()) < sum(convolution_widths(parent.info.widths).values())
        kept = [name for name in child.weights if is_auxiliary(name) and child.weights[name].dim() == 2]
        assert all(torch.equal(child.weights[name], parent.weights[name]) for name in kept)


def test_slim_finetunes_what_is_left(slim: Slimmed) -> None:
    """The classifier's bias has no channel that could be removed, so that training alone changes it."""
    parent, child = (slim.checkpoint(f"{name}checkpoint.safetensors") for name in ("", "slim-2/"))
    assert not torch.equal(parent.weights["fc.bias"], child.weights["fc.bias"])


def test_slim_shows_the_curve_and_keeps_it(slim: Slimmed) -> None:
    said = slim.outcome.err
    assert re.search(r"^ +fp32 latency +ratio \(95 % interval\) +MACs +weights$", said, re.MULTILINE), said
    assert re.search(r"^ +untuned +fp32 top-1 +95 % interval +change in points$", said, re.MULTILINE), said
    for name in ("original", r"slim 1\.3", "slim 2"):
        assert re.search(rf"^{name} +\d+\.\d\d ms +[01]", said, re.MULTILINE), said
        assert re.search(rf"^{name} .* \d+\.\d\d% to \d+\.\d\d%", said, re.MULTILINE), said
    assert "slim 2: top-1 changes by " in said
    assert "checkpoint: runs/photos/slim-2/checkpoint.safetensors\n" in said
    assert "curve: runs/photos/slim.json\n" in said
    assert (slim.folder / "runs/photos/slim.json").read_text() == slim.outcome.out
    report = json.loads(slim.outcome.out)
    point = report["points"][1]
    assert report["accuracy"] == point["untuned"]["reference"] == point["against_original"]["reference"]
    assert point["accuracy"]["images"] == point["untuned_accuracy"]["images"] == 24
    assert report["circumstances"]["cores"] >= 1


def test_slim_shows_what_is_doubtful(slim: Slimmed, monkeypatch: pytest.MonkeyPatch) -> None:
    report = from_json((slim.folder / "runs/photos/slim.json").read_bytes(), SlimReport, where="", error=ConfigError)
    points = [replace(point, doubt=f"doubt {point.speedup}") for point in report.points]
    monkeypatch.setattr(slimming, "slim", lambda *_, **__: replace(report, points=tuple(points)))
    said = done(*SLIM, cwd=slim.folder).err
    assert re.search("^slim 1.3: .*\ndoubt 1.3\ncheckpoint: .*slim-1.3.*\nslim 2: .*\ndoubt 2.0\n", said, re.MULTILINE)


def test_slim_writes_nothing_else(slim: Slimmed, work: Path) -> None:
    new = contents(slim.folder).keys() - contents(work).keys()
    folders = {"runs/photos/slim-1.3", "runs/photos/slim-2"}
    files = {f"{folder}/{name}" for folder in folders for name in ("checkpoint.safetensors", "run.json")}
    assert new == {"runs/photos/slim.json", *folders, *files}


def test_slim_checkpoint_is_used_like_any_other(slim: Slimmed, tmp_path: Path) -> None:
    """Nobody has to say which images it was trained on; the newest checkpoint is still the one that was slimmed."""
    folder = copy_of(slim.folder, tmp_path / "work")
    record = folder / "runs/photos/slim-2/run.json"
    record.write_text(record.read_text().replace(str(slim.folder), str(folder)))
    path = "runs/photos/slim-2/checkpoint.safetensors"
    facts = json.loads(done("inspect", path, "--json", cwd=folder).out)
    assert len(facts["widths of stem"].split(", ")) == 3
    assert len(facts["widths of inception5b"].split(", ")) == 6
    done("build", path, "--max-drop", "100", "--calibration-images", "8", cwd=folder)
    assert "using runs/photos/checkpoint.safetensors (the newest" in done("prune", cwd=folder).err
    assert read_bundle(folder / "runs/photos/slim-2/int8-cpu").manifest.lineage.checkpoint == sha256_file(folder / path)
    done("prune", path, cwd=folder)
    again = ("--out", "runs/again", "--size", "32", "--epochs", "1", "--workers", "0")
    done("train", "--data", "photos", "--weights", path, *again, cwd=folder)
    trained = read_checkpoint(folder / "runs/again/checkpoint.safetensors")
    assert trained.info.widths == slim.checkpoint("slim-2/checkpoint.safetensors").info.widths


# What is refused, and what is kept


@pytest.mark.parametrize(
    ("speedup", "shown"), [("1", "1"), ("0.5", "0.5"), ("-2", "-2"), ("nan", "nan"), ("inf", "inf")]
)
def test_slim_has_to_make_something_faster(speedup: str, shown: str, work: Path) -> None:
    sentence = rf"a speed-up of {shown} makes nothing faster; give --speedup above 1, such as 1\.5"
    refused_without_a_trace(sentence, *SLIM, "--speedup", "1.3", f"--speedup={speedup}", cwd=work)


def test_slim_that_would_empty_layers_says_how_far_it_gets(work: Path, machine: Machine) -> None:
    del machine
    sentence = (
        r"a speed-up of 1000 would empty layers: with the last 8 channels in each, fp32 on 1 thread is \d+\.\d times as"
        r" fast here; ask for less with --speedup"
    )
    refused_without_a_trace(sentence, *SLIM, "--speedup", "1.3", "--speedup", "1000", cwd=work)


def test_slim_of_a_network_that_has_nothing_to_spare(work: Path, machine: Machine, tmp_path: Path) -> None:
    del machine
    write_checkpoint(tmp_path / "c.safetensors", for_photos(NARROW, work))
    sentence = "no convolution has more than 8 channels; there is nothing to remove"
    refused_without_a_trace(sentence, "slim", tmp_path / "c.safetensors", "--data", "photos", *BRIEFLY, cwd=work)


def test_slim_keeps_the_checkpoint_that_it_starts_from(work: Path, tmp_path: Path) -> None:
    path = tmp_path / "slim-1.5" / "checkpoint.safetensors"
    path.parent.mkdir()
    path.write_bytes((work / CHECKPOINT).read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    sentence = rf"{tmp_path}/link/slim-1.5/{path.name} is the checkpoint to slim, which is kept; give another --out"
    refused_without_a_trace(sentence, "slim", path, "--data", "photos", "--out", tmp_path / "link", cwd=work)


def test_slim_into_a_bundle_is_refused(work: Path, tmp_path: Path) -> None:
    write_colour_bundle(tmp_path / "bundle")
    sentence = rf"cannot write {tmp_path}/bundle/slim-1.5/checkpoint.safetensors: {tmp_path}/bundle is a bundle; .*"
    refused_without_a_trace(sentence, *SLIM, "--out", tmp_path / "bundle", cwd=work)


def test_slim_does_not_replace_what_somebody_else_wrote(work: Path, tmp_path: Path) -> None:
    record = tmp_path / "slim-1.5" / "run.json"
    record.parent.mkdir()
    record.write_text('{"data": ["a", "b"]}')
    sentence = rf"{record} is not of a training by gnet-edge; give another --out"
    refused_without_a_trace(sentence, "slim", work / CHECKPOINT, "--data", "photos", "--out", tmp_path, cwd=tmp_path)


def test_slim_sees_before_all_work_that_the_result_cannot_be_written(work: Path) -> None:
    sentence = (
        r"cannot write photos/val/stop/.*: .*photos/val/stop/00000.jpg is not a folder that can be written to; .*"
    )
    refused_without_a_trace(sentence, *SLIM, "--out", "photos/val/stop/00000.jpg", cwd=work)


def test_slim_for_an_engine_that_is_not_installed_says_so(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_openvino(monkeypatch)
    sentence = r"the engine openvino cannot be loaded \(.*\); install it with: .*"
    refused_without_a_trace(sentence, *SLIM, "--engine", "openvino", cwd=work)


def test_slim_refuses_images_of_other_classes(work: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for i in range(2):
            solid("red").save(tmp_path / "other" / name / f"{i}.png")
    sentence = (
        r".*other has classes that are none of the model's 12: cat, dog \(the model's are .*\); name the folders so, or"
        " give the data that the model was trained for"
    )
    refused_without_a_trace(sentence, "slim", CHECKPOINT, "--data", tmp_path / "other", cwd=work)


# What is taught, and told of it


@dataclass(frozen=True, slots=True)
class Stopped:
    """A working folder after ``gnet-edge slim`` that was stopped while it taught the second network."""

    folder: Path
    outcome: Outcome
    taught: list[tuple[Widths, Widths, tuple[Path, ...]]]
    weighed: list[tuple[Path, ...]]
    judged: list[tuple[Path, ...]]

    def curve(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "runs/photos/slim.json").read_text())
        return found


@pytest.fixture(scope="module")
def stopped(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A pruned checkpoint, on one folder of classes with a broken image.

    Of each network one group of channels goes, whatever was asked for. The original is right about nine images, a slim
    network about three, and about six when it was taught.
    """
    found = Stopped(copy_of(work, tmp_path_factory.mktemp("stopped") / "work"), Outcome(0, "", ""), [], [], [])

    def distil(student: GoogLeNet, teacher: GoogLeNet, data: TrainingData, *_: object, **__: object) -> None:
        found.taught.append((student.config.widths, teacher.config.widths, data.train.paths))
        if len(found.taught) == 2:
            raise StoppedError("stopped")
        torch.nn.init.zeros_(student.fc.bias)

    def importance(_: Checkpoint, images: ImageSet, *, progress: Progress) -> dict[str, NDArray[np.float64]]:
        found.weighed.append(images.paths)
        return {name: np.ones(width) for name, width in convolution_widths(SMALL).items()}

    def evaluated(graph: InferenceGraph, images: ImageSet, **_: object) -> Evaluation:
        found.judged.append(images.paths)
        size = sum(math.prod(weight.dims) for weight in graph.model.graph.initializer)
        [bias] = [weight for weight in graph.model.graph.initializer if weight.name == "fc.bias"]
        right = 6 if not numpy_helper.to_array(bias).any() else 9 if size == original_size else 3
        labels, order = np.array(images.labels), np.arange(len(images))
        said = np.where(order < right, labels, (labels + 1) % 12)
        return Evaluation(images.class_names, labels, said, order < right + 2, 1.0, "")

    pruned = prune(read_checkpoint(work / CHECKPOINT)).checkpoint
    write_checkpoint(found.folder / CHECKPOINT, pruned)
    weights = export(pruned).model.graph.initializer
    original_size = sum(math.prod(weight.dims) for weight in weights)
    (found.folder / "photos/train/exit/cut.png").write_text("no image")
    with made_machine(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(slimming, "distil", distil)
        patch.setattr(slimming, "importance_on", importance)
        patch.setattr(slimming, "evaluated", evaluated)
        patch.setattr(slimming, "removals_for", lambda *_, most: 1)
        options = ("--data", "photos/train", "--skip-damaged", "--threads", "2", "--engine", "openvino")
        twice = ("--speedup", "1.3", "--speedup", "2")
        return replace(found, outcome=gnet_edge(*SLIM, *options, *twice, cwd=found.folder))


def test_slim_that_is_stopped_keeps_what_is_finished(stopped: Stopped) -> None:
    assert (stopped.outcome.code, stopped.outcome.err.splitlines()[-1]) == (1, "gnet-edge: stopped")
    assert [point["speedup"] for point in stopped.curve()["points"]] == [1.3]
    assert read_checkpoint(stopped.folder / "runs/photos/slim-1.3/checkpoint.safetensors")
    assert not (stopped.folder / "runs/photos/slim-2").exists()


def test_slim_is_taught_by_the_original_on_images_that_judge_nothing(stopped: Stopped) -> None:
    """The split is that of the training, by its seed, and goes on to who builds the slim one."""
    data = open_dataset(stopped.folder / "photos/train", seed=3)
    training = {path.relative_to(stopped.folder) for path in data.train.paths if path.name != "cut.png"}
    for slim, original, paths in stopped.taught:
        assert original == SMALL
        assert sum(convolution_widths(slim).values()) == sum(convolution_widths(SMALL).values()) - 8
        assert set(paths) == training
    assert set(*stopped.weighed) == training
    assert {path for paths in stopped.judged for path in paths}.isdisjoint(training)
    record = read_run_record(stopped.folder / "runs/photos/slim-1.3")
    assert record == RunRecord(str(stopped.folder / "photos/train"), 3)


def test_slim_tells_what_was_right_before_and_after_it_was_taught(stopped: Stopped) -> None:
    curve = stopped.curve()
    [point] = curve["points"]
    assert (curve["engine"], curve["threads"], curve["accuracy"]["top1"]) == ("openvino", 2, 9 / 12)
    assert curve["cost"]["macs"] == inference_cost(build_model(read_checkpoint(stopped.folder / CHECKPOINT)), 32).macs
    assert (point["untuned_accuracy"]["top1"], point["untuned"]["top1_change_points"]) == (3 / 12, -50)
    assert (point["accuracy"]["top1"], point["against_original"]["top1_change_points"]) == (6 / 12, -25)
    record = read_checkpoint(stopped.folder / "runs/photos/slim-1.3/checkpoint.safetensors").info.training
    assert record is not None
    assert (record.val_top1, record.val_top5) == pytest.approx((6 / 12, 8 / 12))
    assert record.seconds > 0


def test_slim_that_is_not_as_fast_as_was_asked_for_says_so(stopped: Stopped) -> None:
    [point] = stopped.curve()["points"]
    assert re.fullmatch(r"slim 1\.3 takes 0\.9\d\d of the time .* and not 0\.769; .*", point["doubt"])
