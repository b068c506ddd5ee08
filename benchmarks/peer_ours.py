"""Our side of the comparison: the graph, the images and the bundles, made in a folder of their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peer_engines import Contender, Runner, Subject, in_fresh_process
from peer_quantizers import Cost, Made

from googlenet_edge import __version__
from googlenet_edge.console import bar
from googlenet_edge.dataset import Dataset, ImageSet, load_pixels, open_dataset, stratified_sample
from googlenet_edge.engines.circumstances import peak_memory_mb
from googlenet_edge.errors import DataError
from googlenet_edge.graph import InferenceGraph, read_graph, write_graph
from googlenet_edge.preprocess import Preprocess
from googlenet_edge.target import Device, EngineChoice, Precision
from googlenet_edge.workspace import CHECKPOINT_FILE, GRAPH_FILE, RUN_FILE, TABLE_FILE, split_seed

OURS = {"gnet-edge, ONNX Runtime": EngineChoice.ONNXRUNTIME, "gnet-edge, OpenVINO": EngineChoice.OPENVINO}


@dataclass(frozen=True, slots=True)
class Task:
    """What is quantized with how many images of ``data``, and the folder ``work`` for everything that is made.

    ``max_drop_points`` is what our builds may lose before they leave layers in float.
    """

    work: Path
    data: Path
    seed: int
    calibration_images: int
    max_drop_points: float

    @property
    def given(self) -> Path:
        """The folder with what the peers are given."""
        return self.work / "given"

    @property
    def run(self) -> Path:
        """The folder with a copy of the checkpoint, and what is made from it."""
        return self.work / "run"


@dataclass(frozen=True, slots=True)
class Source:
    """The FP32 graph of a run, and the images that it is compared on."""

    run: Path
    graph: InferenceGraph
    dataset: Dataset


def read_source(run: Path, data: Path) -> Source:
    """Exports the checkpoint in ``run``, and finds the images of ``data``.

    Raises:
        CheckpointError, ConfigError, DataError: see there; also where the classes are not the same.
    """
    from googlenet_edge.checkpoint import read_checkpoint  # noqa: PLC0415  (torch, for this alone)
    from googlenet_edge.export import export  # noqa: PLC0415  (as above)

    checkpoint, dataset = read_checkpoint(run / CHECKPOINT_FILE), open_dataset(data, seed=split_seed(run))
    if dataset.val.class_names != checkpoint.info.class_names:
        raise DataError(f"{data} has other classes than {run} was trained for; give its own data")
    return Source(run, export(checkpoint), dataset)


def prepare(task: Task, source: Source, *, limit: int | None) -> ImageSet:
    """Writes the graph, and the images as the peers and the engines want them.

    Returns the validation images: all, or ``limit`` of them.

    Raises:
        DamagedImageError, OutputError: see there.
    """
    for folder in (task.run, task.given):
        write_graph(folder / GRAPH_FILE, source.graph)
    for name in (CHECKPOINT_FILE, RUN_FILE):
        if (source.run / name).is_file():
            shutil.copyfile(source.run / name, task.run / name)
    val, train = source.dataset.val, source.dataset.train
    if limit:
        val = stratified_sample(val, limit, seed=task.seed)
    calibration = stratified_sample(train, task.calibration_images, seed=task.seed)
    write_images(task, source.graph.preprocess, calibration, val)
    return val


def write_images(task: Task, preprocess: Preprocess, calibration: ImageSet, val: ImageSet) -> None:
    """Decodes the images: normalized float32 for the peers' calibration, pixels for what is judged."""
    tensors = preprocess.normalize(_decoded(calibration, preprocess, "decoding calibration images"))
    np.save(task.given / "calibration.npy", tensors)
    np.save(subject_of(task).pixels, _decoded(val, preprocess, "decoding validation images"))


def _decoded(images: ImageSet, preprocess: Preprocess, what: str) -> NDArray[np.uint8]:
    """uint8 ``(n, crop, crop, 3)``."""
    found = []
    with bar(what) as progress:
        for done, pixels in enumerate(load_pixels(images, preprocess), start=1):
            found.append(pixels)
            progress(done, len(images))
    return np.stack(found)


def subject_of(task: Task) -> Subject:
    """What the models of a prepared task are judged on."""
    return Subject(task.work / "pixels.npy", read_graph(task.given / GRAPH_FILE).preprocess)


def make_ours(name: str, engine: EngineChoice, task: Task, cost: Callable[[], Cost]) -> Made:
    """Calibrates, to see what that costs, then builds the bundle as the command does.

    Args:
        cost: what `calibrate_and_lower` says, which leaves the table that all engines' bundles are built from.

    Raises:
        EdgeError: of the step that failed.
    """
    found = cost()
    bundle = task.work / "bundles" / engine.value
    in_fresh_process(build_bundle, task, engine, bundle)
    return Made(Contender(name, bundle, Runner.BUNDLE), found)


def calibrate_and_lower(task: Task) -> Cost:
    """From the files of the graph and of the images to a quantized model, with the commands' own functions."""
    from googlenet_edge.engines.build import CalibrationRequest, calibrate_file  # noqa: PLC0415  (unseen before)
    from googlenet_edge.engines.lowering import lower  # noqa: PLC0415  (as above)

    started = time.perf_counter()
    request = CalibrationRequest(task.data, images=task.calibration_images, seed=task.seed)
    table = calibrate_file(task.run / GRAPH_FILE, task.run / TABLE_FILE, request, bars=bar)
    lowered = lower(read_graph(task.run / GRAPH_FILE), device=Device.CPU, precision=Precision.INT8, table=table)
    (task.work / "lowered.onnx").write_bytes(lowered.model)
    seconds = time.perf_counter() - started
    return Cost(seconds, peak_memory_mb(), {"googlenet-edge": __version__})


def build_bundle(task: Task, engine: EngineChoice, out: Path) -> None:
    """`gnet-edge build --precision int8 --engine …` with the graph and the table that are there."""
    from googlenet_edge.engines.build import BuildRequest, CalibrationRequest, build  # noqa: PLC0415  (as above)
    from googlenet_edge.engines.checkpoint_source import CheckpointSource  # noqa: PLC0415  (as above)

    source = CheckpointSource(task.run / CHECKPOINT_FILE)
    calibration = CalibrationRequest(task.data, images=task.calibration_images, seed=task.seed)
    build(
        BuildRequest(source, out, Precision.INT8, calibration, max_drop_points=task.max_drop_points, engine=engine),
        bars=bar,
    )
