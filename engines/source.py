"""What a build starts from: a checkpoint of this package, or somebody else's ONNX file.

Such a file is imported as an inference graph, with the proof that both compute the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from googlenet_edge.dataset import Checked
from googlenet_edge.errors import GraphError, OutputError, why
from googlenet_edge.files import real_path
from googlenet_edge.foreign.canonical import rewrite
from googlenet_edge.foreign.file import (
    MAX_SIDE,
    Arrays,
    ForeignFile,
    read_foreign,
    read_labels,
    run_model,
)
from googlenet_edge.foreign.network import (
    ChannelOrder,
    InputFormat,
    random_pixels,
    read_network,
    run_original,
    without_front,
)
from googlenet_edge.graph import (
    DEFAULT_OPSET,
    INPUT,
    OUTPUT,
    InferenceGraph,
    inference_model,
    metadata_of,
    relative_difference,
)
from googlenet_edge.preprocess import Channels, Preprocess
from googlenet_edge.workspace import GRAPH_FILE

_DEFAULT = Preprocess()

_RANDOM_IMAGES = 4
_TO_ONE = 1e-3
_LEAST_PROBABILITY = 1e-30


class Source(Protocol):
    """A file to start from."""

    @property
    def folder(self) -> Path:
        """Where the graph and the table made from it go."""

    @property
    def elsewhere(self) -> str:
        """What to give so that they go somewhere else: no option names their place."""

    def open(self, folder_names: tuple[str, ...]) -> Origin:
        """Reads the file. ``folder_names`` are the classes of the images. Raises `EdgeError`."""


@dataclass(frozen=True)
class Origin(ABC):
    """A source that was read, and becomes the inference graph.

    ``class_names`` are in the order of the logits. ``checkpoint`` is the hash of the checkpoint, where it is one.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    checkpoint: str | None

    @abstractmethod
    def make(self) -> InferenceGraph:
        """The graph, not yet checked. Raises `GraphError`."""

    @abstractmethod
    def made(self, graph: InferenceGraph) -> bool:
        """Whether a graph is what this version makes of it."""

    @abstractmethod
    def check(self, graph: InferenceGraph, pixels: NDArray[np.uint8]) -> float:
        """The largest difference between both on images, uint8 ``(N, crop, crop, 3)``, relative to the largest logit.

        Raises:
            GraphError: it is too large.
        """

    @abstractmethod
    def doubts(self, val: Checked) -> tuple[str, ...]:
        """What makes an accuracy on these images doubtful."""


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """Somebody else's ONNX file, and what it does not say about itself, as one of this package does.

    Attributes:
        folder: where the graph and the table made from it go.
        labels: a text file, one class name a line; without one, the names of the folders of images.
        size: pixels, for a file that leaves it open.
        resize: the short side, pixels; by default 8/7 of the size.
        mean, std: of red, green and blue, on values of 0 to 255; by default 127.5.
    """

    path: Path
    folder: Path
    labels: Path | None = None
    size: int | None = None
    resize: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    channel_order: ChannelOrder = ChannelOrder.RGB

    @property
    def elsewhere(self) -> str:
        """They are below the working folder, wherever the file is."""
        return "another working folder"

    def open(self, folder_names: tuple[str, ...]) -> Origin:
        """Reads and imports it. Raises `GraphError`, or `OutputError` where its graph would take its own place."""
        if real_path(self.folder / GRAPH_FILE) == real_path(self.path):
            raise OutputError(f"{self.path} is where its own graph would be written; move it somewhere else")
        file = read_foreign(self.path, size=self.size)
        own = metadata_of(file.model, self.path)
        images = InputFormat(self._preprocess(file, own.preprocess if own else None), self.channel_order)
        names = self._class_names(file, own.class_names if own else folder_names)
        graph = import_graph(file, class_names=names, images=images)
        return _OnnxOrigin(graph.class_names, graph.preprocess, None, file, images, graph)

    def _preprocess(self, file: ForeignFile, own: Preprocess | None) -> Preprocess:
        resize = self.resize or (own.resize if own else min(MAX_SIDE, round(file.crop * 8 / 7)))
        usual = own or _DEFAULT
        try:
            return Preprocess(resize, file.crop, self.mean or usual.mean, self.std or usual.std)
        except ValueError as problem:
            raise GraphError(f"{self.path} cannot be given such images: {problem}") from problem

    def _class_names(self, file: ForeignFile, usual: tuple[str, ...]) -> tuple[str, ...]:
        names = read_labels(self.labels) if self.labels else usual
        if len(names) != file.classes:
            found = f"{self.labels} {len(names)} lines" if self.labels else f"the images {len(names)} folders"
            raise GraphError(
                f"{self.path} has {file.classes} classes and {found}; give --labels FILE with one label a line, in the"
                " order of the classes"
            )
        return names


@dataclass(frozen=True)
class _OnnxOrigin(Origin):
    file: ForeignFile
    images: InputFormat
    graph: InferenceGraph

    def make(self) -> InferenceGraph:
        return self.graph

    def made(self, graph: InferenceGraph) -> bool:
        return graph.sha256 == self.graph.sha256

    def check(self, graph: InferenceGraph, pixels: NDArray[np.uint8]) -> float:
        return check_import(graph, self.file, pixels, images=self.images)

    def doubts(self, val: Checked) -> tuple[str, ...]:
        del val
        return ("the file does not say what it was trained on; that may have been some of the validation images",)


def import_graph(file: ForeignFile, *, class_names: tuple[str, ...], images: InputFormat) -> InferenceGraph:
    """The file as an inference graph; `check_import` proves it.

    Its preprocessing is that of ``images``, and what the file itself does to them before its first convolution. Where
    the file gives probabilities, the logits are their logarithms.

    Raises:
        GraphError: weights that cannot be used, colours that no convolution reads
            first, or operators that opset 17 does not have.
    """
    network, preprocess = without_front(file, read_network(file), images)
    nodes, weights = rewrite(network)
    if _are_probabilities(run_original(file, file.logits, images.batch(random_pixels(file.crop, _RANDOM_IMAGES)))):
        nodes, weights = _with_logarithm(nodes, weights)
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = inference_model(nodes, constants, crop=file.crop, classes=file.classes)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as problem:
        raise GraphError(
            f"{file.path} is of opset {file.opset}, and not all of it fits opset {DEFAULT_OPSET} ({why(problem)});"
            f" convert it with onnx.version_converter, or export it with opset {DEFAULT_OPSET}"
        ) from problem
    return InferenceGraph(model, class_names, preprocess, file.sha256)


def _are_probabilities(scores: NDArray[np.float64]) -> bool:
    """Of ``(images, classes)``."""
    return scores.shape[1] > 1 and bool((scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) < _TO_ONE).all())


def _with_logarithm(nodes: list[onnx.NodeProto], weights: Arrays) -> tuple[list[onnx.NodeProto], Arrays]:
    """Scores whose softmax is what the nodes give; none is below that of `_LEAST_PROBABILITY`."""
    probabilities, least = f"{OUTPUT}.probabilities", f"{OUTPUT}.least"
    nodes[-1].output[0] = probabilities
    clipped = onnx.helper.make_node("Max", [probabilities, least], [f"{OUTPUT}.clipped"], name=f"{OUTPUT}.clipped")
    logarithm = onnx.helper.make_node("Log", [clipped.output[0]], [OUTPUT], name=OUTPUT)
    return [*nodes, clipped, logarithm], {**weights, least: np.array(_LEAST_PROBABILITY, np.float32)}


def check_import(graph: InferenceGraph, file: ForeignFile, pixels: NDArray[np.uint8], *, images: InputFormat) -> float:
    """The largest difference between the graph's logits and the file's, relative to the largest logit.

    The file runs one image after the other, the graph all at once. A few images of random pixels are added.

    Args:
        pixels: RGB uint8 ``(N, crop, crop, 3)``, real images.

    Raises:
        GraphError: it is above 1e-4, or ONNX Runtime cannot run one of the two.
    """
    noise = random_pixels(file.crop, _RANDOM_IMAGES)
    pixels = np.concatenate([pixels, noise])
    expected = run_original(file, file.logits, images.batch(pixels))
    if _are_probabilities(expected[-_RANDOM_IMAGES:]):
        expected = np.log(np.maximum(expected, _LEAST_PROBABILITY))
    feed = {INPUT: graph.preprocess.normalize(pixels)}
    [[found]] = run_model(graph.model, [OUTPUT], [feed], f"{file.path} in batches")
    if found.shape != expected.shape:
        raise GraphError(
            f"{file.path} mixes the images of a batch: for {len(expected)} of them it gives {found.shape}; export it"
            " with a dynamic batch, and flatten(x, 1) in the place of squeeze()"
        )
    return relative_difference(found, expected, source=str(file.path))
