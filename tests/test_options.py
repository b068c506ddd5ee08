"""What is typed reaches what does the work: every option of the commands that take long, and its default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import gnet_edge
from tiny_bundles import solid, write_colour_bundle

from googlenet_edge import Preprocess, train
from googlenet_edge import pretrained as weights_files
from googlenet_edge.augment import Augmentation
from googlenet_edge.calibration.ranges import RangeMethod
from googlenet_edge.commands.options import CORES
from googlenet_edge.console import leave_out_damaged
from googlenet_edge.dataset import refuse_damaged
from googlenet_edge.distil import DistilConfig
from googlenet_edge.engines import build, evaluate, finetune, predictor, slimming
from googlenet_edge.engines.build import BuildRequest, CalibrationRequest
from googlenet_edge.engines.checkpoint_source import CheckpointSource
from googlenet_edge.engines.finetune import FinetuneRequest
from googlenet_edge.engines.registry import BACKENDS
from googlenet_edge.engines.slimming import SlimRequest
from googlenet_edge.engines.stopwatch import Target
from googlenet_edge.errors import EdgeError
from googlenet_edge.target import Device, EngineChoice, EngineName, Precision, Unit
from googlenet_edge.train import TrainRequest
from googlenet_edge.training_state import TrainConfig
from googlenet_edge.workspace import RunRecord, write_run_record

CHECKPOINT = Path("runs/photos/checkpoint.safetensors")

Wished = Callable[..., Any]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder that looks as if a training had been in it."""
    write_run_record(tmp_path / CHECKPOINT.parent, RunRecord("photos", seed=3))
    (tmp_path / CHECKPOINT).touch()
    return tmp_path


@pytest.fixture
def wished(work: Path, monkeypatch: pytest.MonkeyPatch) -> Wished:
    """What a function is called with by a command, which ends there."""

    def wished(module: object, name: str, *command: str) -> Any:
        given: list[Any] = []

        def take(*positional: Any, **named: Any) -> Any:
            given.extend((*positional, named))
            raise EdgeError("it is enough to know")

        monkeypatch.setattr(module, name, take)
        outcome = gnet_edge(*command, cwd=work)
        assert outcome.err.endswith("gnet-edge: it is enough to know\n"), outcome.err
        return given

    return wished


def test_train_does_what_it_is_told(wished: Wished) -> None:
    request, others = wished(
        *(train, "train", "train", "--data", "photos", "--out", "here", "--epochs", "3", "--size", "64"),
        *("--resize", "80", "--batch-size", "4", "--learning-rate", "0.5", "--min-area", "0.25", "--no-flip"),
        *("--colour", "0.5", "--erase", "0.125", "--plain-epochs", "1", "--true-5x5", "--no-mixed-precision"),
        *("--seed", "7", "--workers", "0", "--skip-damaged"),
    )
    config = TrainConfig(
        epochs=3,
        batch_size=4,
        learning_rate=0.5,
        mixed_precision=False,
        augmentation=Augmentation(min_area=0.25, flip=False, colour=0.5, erase=0.125),
        plain_epochs=1,
        seed=7,
    )
    there = Path("photos"), Path("here")
    assert request == TrainRequest(*there, Preprocess(80, 64), config, true_5x5=True, workers=0)
    assert others["when_damaged"] is leave_out_damaged


def test_train_without_a_word_takes_what_help_says(wished: Wished, monkeypatch: pytest.MonkeyPatch) -> None:
    request, others = wished(train, "train", "train", "--data", "photos")
    config = TrainConfig(epochs=30, batch_size=0, learning_rate=0.1, augmentation=Augmentation(0.35, True, 0.2, 0.0))
    expected = TrainRequest(Path("photos"), Path("runs/photos-2"), Preprocess(256, 224), config, workers=2)
    assert (request, others["when_damaged"]) == (expected, refuse_damaged)
    monkeypatch.setattr(weights_files, "read_start", lambda name, **_: f"weights of {name}")
    request, _ = wished(train, "train", "train", "--data", "photos", "--weights", "imagenet")
    config = replace(config, learning_rate=0.02)
    assert request == replace(expected, config=config, start="weights of imagenet")  # type: ignore[arg-type]


def test_finetune_does_what_it_is_told(wished: Wished) -> None:
    request, _ = wished(
        *(finetune, "finetune", "finetune", str(CHECKPOINT), "--data", "others", "--calibration-images", "24"),
        *("--method", "entropy", "--epochs", "2", "--batch-size", "4", "--learning-rate", "0.5", "--seed", "7"),
        *("--workers", "0", "--out", "tuned.safetensors"),
    )
    config = DistilConfig(epochs=2, batch_size=4, learning_rate=0.5, weight_decay=0.0, mixed_precision=False, seed=7)
    images = CalibrationRequest(Path("others"), 24, RangeMethod.ENTROPY, seed=3)
    assert request == FinetuneRequest(CHECKPOINT, Path("tuned.safetensors"), images, config, threads=CORES, workers=0)


def test_slim_does_what_it_is_told(wished: Wished) -> None:
    request, _ = wished(
        *(slimming, "slim", "slim", str(CHECKPOINT), "--data", "others", "--speedup", "2", "--speedup", "1.5"),
        *("--speedup", "2", "--precision", "fp32", "--engine", "openvino", "--threads", "3", "--epochs", "2"),
        *("--batch-size", "4", "--learning-rate", "0.5", "--seed", "7", "--workers", "0", "--out", "here"),
    )
    assert request == SlimRequest(
        CHECKPOINT,
        Path("here"),
        Path("others"),
        (1.5, 2.0),
        Target(Precision.FP32, BACKENDS[1], 3),
        DistilConfig(epochs=2, batch_size=4, learning_rate=0.5, seed=7),
        seed=3,
        streams=CORES,
        workers=0,
    )


def test_build_does_what_it_is_told(wished: Wished) -> None:
    request, _ = wished(
        *(build, "build", "build", str(CHECKPOINT), "--calibration-images", "24", "--method", "entropy"),
        *("--max-drop", "0.25", "--engine", "auto", "--threads", "3", "--skip-damaged"),
    )
    images = CalibrationRequest(Path("photos"), 24, RangeMethod.ENTROPY, seed=3, when_damaged=leave_out_damaged)
    expected = BuildRequest(
        CheckpointSource(CHECKPOINT),
        Path("runs/photos/int8-cpu"),
        Precision.INT8,
        images,
        max_drop_points=0.25,
        threads=3,
        engine=EngineChoice.AUTO,
        timed_threads=3,
    )
    assert request == expected
    request, _ = wished(build, "build", "build", "--precision", "fp16", "--device", "orin-nx", "--dla", "--out", "here")
    assert request == BuildRequest(
        CheckpointSource(CHECKPOINT),
        Path("here"),
        Precision.FP16,
        CalibrationRequest(Path("photos"), seed=3),
        device=Device.ORIN_NX,
        threads=CORES,
        unit=Unit.DLA,
    )


def test_predict_shares_its_threads_among_the_images(wished: Wished, work: Path) -> None:
    command = ("predict", "one.png", "two.png", "--bundle", "runs", "--engine", "openvino", "--threads", "5")
    path, named = wished(predictor, "load_predictor", *command)
    assert path == Path("runs")
    assert (named["streams"], named["threads"], named["engine"]) == (2, 2, EngineName.OPENVINO)


def test_eval_does_what_it_is_told(wished: Wished, work: Path) -> None:
    for place in ("train/red", "train/blue", "val/red", "val/blue"):
        (work / "photos" / place).mkdir(parents=True)
        solid(place.partition("/")[2]).save(work / "photos" / place / "0.png")
    write_colour_bundle(work / "bundle")
    command = ("eval", "bundle", "--data", "photos", "--engine", "openvino")
    for threads, streams in ((("--threads", "3"), 3), ((), CORES)):
        paths, images, named = wished(evaluate, "evaluate_bundles", *command, *threads)
        assert (paths, [path.parent.parent.name for path in images.paths]) == ([Path("bundle")], ["val", "val"])
        assert (named["streams"], named["engine"]) == (streams, EngineName.OPENVINO)
