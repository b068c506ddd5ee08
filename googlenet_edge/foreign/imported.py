"""A foreign file as an inference graph, and the proof that both compute the same."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from googlenet_edge.errors import GraphError
from googlenet_edge.foreign.canonical import rewrite
from googlenet_edge.foreign.file import ForeignFile, why
from googlenet_edge.foreign.front import InputFormat, random_pixels, without_front
from googlenet_edge.foreign.network import Original, open_session, read_network, run_session
from googlenet_edge.graph import DEFAULT_OPSET, INPUT, OUTPUT, InferenceGraph, inference_model

TOLERANCE = 1e-4
_RANDOM_IMAGES = 4


def import_graph(file: ForeignFile, *, class_names: tuple[str, ...], images: InputFormat) -> InferenceGraph:
    """The file as an inference graph; `check_import` proves it.

    Its preprocessing is that of ``images``, and what the file itself does to them before its first convolution.

    Raises:
        GraphError: another number of class names, weights that cannot be used, colours that no convolution reads
            first, or operators that opset 17 does not have.
    """
    if len(class_names) != file.classes:
        raise GraphError(f"{file.path} has {file.classes} classes and {len(class_names)} labels; give one for each")
    network, preprocess = without_front(file, read_network(file), images)
    nodes, weights = rewrite(network)
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
    expected = Original(file, file.logits).run(images.batch(pixels))
    where = f"{file.path} in batches"
    session = open_session(graph.model, where)
    [found] = run_session(session, [OUTPUT], {INPUT: graph.preprocess.normalize(pixels)}, where)
    largest = float(np.abs(expected).max())
    if largest == 0.0:
        raise GraphError(f"{file.path} gives zero for every class of every image; its weights are damaged")
    relative = float(np.abs(found - expected).max()) / largest
    if not relative <= TOLERANCE:
        raise GraphError(
            f"the imported graph differs from {file.path} by {relative:.1e} of the largest logit, at most"
            f" {TOLERANCE:.0e} is allowed; please report this with the file"
        )
    return relative
