"""The FP32 inference graph: one ONNX file that knows its classes, its preprocessing and the checkpoint it came from."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from googlenet_edge import __version__
from googlenet_edge.errors import GraphError, OutputError, why
from googlenet_edge.files import from_versioned_json, read_file, sha256_bytes, to_json, write_bytes
from googlenet_edge.preprocess import Preprocess

INPUT = "images"
OUTPUT = "logits"
METADATA_KEY = "googlenet_edge"
SCHEMA = 1
MAX_BYTES = 512 << 20
DEFAULT_OPSET = 17
OPSETS = (13, DEFAULT_OPSET)
IR_VERSION = 8
PARITY_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class GraphMetadata:
    """What the graph says about itself, as JSON under one key of the model's metadata."""

    schema: int
    class_names: tuple[str, ...]
    preprocess: Preprocess
    parent_sha256: str


@dataclass(frozen=True)
class InferenceGraph:
    """GoogLeNet for inference: ``images`` float32 ``(N, 3, crop, crop)`` → ``logits`` float32 ``(N, classes)``.

    ``parent_sha256`` is the hash of the checkpoint, or of the foreign file, that it was made from.
    """

    model: onnx.ModelProto
    class_names: tuple[str, ...]
    preprocess: Preprocess
    parent_sha256: str

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All constants by name."""
        return {weight.name: numpy_helper.to_array(weight) for weight in self.model.graph.initializer}

    def with_weights(self, changed: Mapping[str, NDArray[np.float32]]) -> InferenceGraph:
        """The graph with other values for some of its constants."""
        model = copy.deepcopy(self.model)
        for weight in model.graph.initializer:
            if weight.name in changed:
                weight.CopyFrom(numpy_helper.from_array(changed[weight.name], weight.name))
        return InferenceGraph(model, self.class_names, self.preprocess, self.parent_sha256)

    @functools.cached_property
    def bytes(self) -> bytes:
        """The file, the same for the same graph."""
        model = copy.deepcopy(self.model)
        del model.metadata_props[:]
        text = to_json(GraphMetadata(SCHEMA, self.class_names, self.preprocess, self.parent_sha256))
        model.metadata_props.add(key=METADATA_KEY, value=text.decode())
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the file."""
        return sha256_bytes(self.bytes)


class NotOursError(GraphError):
    """A whole graph, of somebody else."""


def write_graph(path: Path, graph: InferenceGraph) -> None:
    """Writes the graph as one file. Raises `OutputError`."""
    write_bytes(path, graph.bytes)


def read_graph(path: Path) -> InferenceGraph:
    """Reads a graph that this package wrote.

    Raises:
        GraphError: missing, cut off, not ONNX, not from this package, or changed after it or by a newer version of it.
    """
    if path.suffix == ".safetensors":
        raise GraphError(f"{path} is a checkpoint where a graph is wanted; make one with: gnet-edge export {path}")
    data = read_file(path, limit=MAX_BYTES, error=GraphError)
    try:
        model = onnx.load_model_from_string(data)
        metadata = metadata_of(model, path)
        if metadata or not model.graph.node:  # somebody else's may be of any kind
            onnx.checker.check_model(model, full_check=True)
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as problem:
        raise GraphError(f"{path} is not a whole ONNX file ({why(problem)}); export it again") from problem
    if metadata is None:
        raise NotOursError(f"{path} was not written by gnet-edge export; it has no class names and no preprocessing")
    if others := {o.version for o in model.opset_import} - set(OPSETS):
        known = " or ".join(map(str, OPSETS))
        raise GraphError(f"{path} is of opset {max(others)}, and gnet-edge export writes {known}; export it again")
    if not _as_written(model.graph, metadata.preprocess.crop):
        raise GraphError(f"{path} was changed after gnet-edge export wrote it; export it again")
    return InferenceGraph(model, metadata.class_names, metadata.preprocess, metadata.parent_sha256)


def _as_written(graph: onnx.GraphProto, crop: int) -> bool:
    """Whether images of that size go in, logits come out, and every layer has its weight and its bias."""
    if [i.name for i in graph.input] != [INPUT] or [o.name for o in graph.output] != [OUTPUT]:
        return False
    sides = [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[1:]]
    stored = {constant.name for constant in graph.initializer}
    layers = [node.input[1:] for node in graph.node if node.op_type in ("Conv", "Gemm")]
    return sides == [3, crop, crop] and all(len(parts) == 2 and stored.issuperset(parts) for parts in layers)


def metadata_of(model: onnx.ModelProto, path: Path) -> GraphMetadata | None:
    """What a graph of this package says about itself; nothing for any other. Raises `GraphError` for a newer one's."""
    texts = {p.key: p.value for p in model.metadata_props}
    if METADATA_KEY not in texts:
        return None
    data, where = texts[METADATA_KEY].encode(), f"the metadata of {path}"
    return from_versioned_json(data, GraphMetadata, schema=SCHEMA, where=where, error=GraphError)


def refuse_another_s(path: Path) -> None:
    """Raises `OutputError` where there is a graph that this package did not write, which writing would lose."""
    try:
        if path.exists():
            read_graph(path)
    except NotOursError as problem:
        raise OutputError(f"{problem}; it would be replaced: move it somewhere else") from problem
    except GraphError:
        pass


def inference_model(
    nodes: Sequence[NodeProto], weights: Sequence[TensorProto], *, crop: int, classes: int, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """A model as `InferenceGraph` holds it, not checked."""
    images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, crop, crop])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", classes])
    return helper.make_model(
        helper.make_graph(nodes, "googlenet", [images], [logits], weights),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="googlenet-edge",
        producer_version=__version__,
    )


def relative_difference(found: NDArray[np.floating], expected: NDArray[np.floating], *, source: str) -> float:
    """The largest difference of logits by the largest of them. Raises `GraphError` where that is too much, or 0."""
    largest = float(np.abs(expected).max())
    if largest == 0.0:
        raise GraphError(f"{source} gives zero for every class of every image; the weights are damaged")
    relative = float(np.abs(found - expected).max()) / largest
    if not relative <= PARITY_TOLERANCE:
        raise GraphError(
            f"the graph differs from {source} by {relative:.1e} of the largest logit, at most {PARITY_TOLERANCE:.0e} is"
            " allowed; please report this with the file and your versions of torch, onnx and onnxruntime"
        )
    return relative


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes that are written down."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def live(nodes: Sequence[NodeProto], outputs: Collection[str]) -> tuple[NodeProto, ...]:
    """The nodes that ``outputs`` depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return tuple(reversed(kept))
