"""Reads somebody else's ONNX file; what cannot become an inference graph is refused in one clear line.

Nothing is run here but what depends on constants alone, and no other file is opened.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from googlenet_edge.errors import GraphError, why
from googlenet_edge.files import is_name, read_file, sha256_bytes
from googlenet_edge.graph import MAX_BYTES

OLDEST_OPSET = 8
_FIRST_WITH_SHAPES = 6
MAX_SIDE = 4096
_MAX_LABELS_BYTES = 1 << 20
_SILENT = 4
_MOST_OF_A_SHAPE = 64  # numbers that a shape may be computed from
_MAX_ELEMENTS = 1 << 28  # of one tensor: a gigabyte
NO_OPERATION = ("Identity", "Dropout")
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")
_SAME_VALUES = ("Reshape", "Flatten", "Squeeze")
_ONNX_ERRORS = (
    DecodeError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ValueError,
    RuntimeError,
)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ForeignFile:
    """A classifier: images float32 ``(batch, 3, crop, crop)`` → logits float32 ``(batch, classes)``.

    Attributes:
        model: the file; where it was older, in the words of opset 8.
        sha256: of the file.
        input: the name of the images.
        logits: the name of the output, or of what goes into the Softmax at the end.
        batch: how many images it takes; 1 where it takes any number.
        shapes: those that are known of its tensors, for such a batch.
        constants: what its nodes compute from weights alone.
    """

    path: Path
    model: onnx.ModelProto = field(repr=False)
    sha256: str
    input: str
    logits: str
    batch: int
    crop: int
    classes: int
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    constants: Arrays = field(repr=False)

    @property
    def opset(self) -> int:
        """The version of the operators in ``model``."""
        return _opset(self.model)


def read_foreign(path: Path, *, size: int | None = None) -> ForeignFile:
    """Reads a file.

    Args:
        size: the side of the images in pixels, for a file that leaves it open.

    Raises:
        GraphError: missing, damaged, larger than 512 MB or in several files; quantized, in half precision, with
            control flow, NaN or operators that are not ONNX's own; or anything but one batch of square images in and
            one row of scores out.
    """
    data = read_file(path, limit=MAX_BYTES, error=GraphError)
    model = _parsed(path, data)
    images = _the_input(path, model.graph)
    batch, crop = _geometry(path, images, size)
    shapes = _shapes(path, model, (batch, 3, crop, crop), {})
    constants = _computed(model, str(path))
    shapes |= _shapes(path, model, (batch, 3, crop, crop), constants)
    logits = _logits(path, model.graph, shapes)
    match shapes.get(logits):
        case (n, classes) if n == batch and classes > 0:
            known = batch, crop, classes, shapes, constants
            return ForeignFile(path, model, sha256_bytes(data), images.name, logits, *known)
        case other:
            raise GraphError(
                f"{path} gives {_shape_text(other)} for {batch} images, expected a row of scores for each: float32"
                f" ({batch}, classes); export the classifier alone"
            )


def label(node: NodeProto) -> str:
    """How a node is called: by its name, or by its output where it has none."""
    return node.name or next(iter(node.output), node.op_type)


def _parsed(path: Path, data: bytes) -> onnx.ModelProto:
    """The model, checked and without anything that is not a network of floats."""
    try:
        model = onnx.load_model_from_string(data)
        _refuse_what_is_no_plain_network(path, model)
        onnx.checker.check_model(model)
    except _ONNX_ERRORS as problem:
        raise GraphError(f"{path} is not a whole ONNX file ({why(problem)}); copy or export it again") from problem
    newest = onnx.defs.onnx_opset_version()
    if _opset(model) > newest:
        raise GraphError(
            f"{path} is of opset {_opset(model)}, newer than the {newest} that ONNX {onnx.__version__} knows; export it"
            " with opset 17"
        )
    if _opset(model) < OLDEST_OPSET:
        model = _modernized(path, model)
    _refuse_damaged_weights(path, model.graph)
    return model


def _refuse_what_is_no_plain_network(path: Path, model: onnx.ModelProto) -> None:
    for function in model.functions:
        raise GraphError(f"{path} defines the operator {function.name}; inline it with onnx.inliner")
    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise GraphError(
                f"{path} keeps the weight {tensor.name} in another file; put all in one with onnx.load and onnx.save"
            )
    for sparse in model.graph.sparse_initializer:
        raise GraphError(f"{path} has the sparse weight {sparse.values.name}; export it with dense weights")
    for node in model.graph.node:
        _refuse_operator(path, node)


def _refuse_operator(path: Path, node: NodeProto) -> None:
    what = f"{path} has the operator {node.op_type} ({label(node)})"
    if node.op_type.startswith(("QLinear", "Quantize", "Dequantize", "DynamicQuantize")) or "Integer" in node.op_type:
        raise GraphError(f"{what}: it is quantized already; give the float32 file that it was made from")
    if node.domain not in ("", "ai.onnx"):
        raise GraphError(f"{what} of {node.domain}, which is not ONNX's own; export it with ONNX's operators alone")
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
        raise GraphError(f"{what}, which is control flow; export a network that does the same for every image")


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor that a file holds."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _refuse_damaged_weights(path: Path, graph: onnx.GraphProto) -> None:
    multiplied = {node.input[1] for node in graph.node if node.op_type in _WITH_WEIGHTS and len(node.input) > 1}
    for tensor in _tensors(graph):
        try:
            value = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as problem:
            raise GraphError(
                f"{path} has a damaged weight {tensor.name} ({why(problem)}); copy or export it again"
            ) from problem
        if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
            raise GraphError(f"{path} has NaN in {tensor.name or 'a constant'}; its training failed, use another file")
        if tensor.name in multiplied and value.dtype == np.float16:
            raise GraphError(f"{path} is in half precision ({tensor.name}); give the float32 file it was made from")


def _opset(model: onnx.ModelProto) -> int:
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def _modernized(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the words of opset 8, for ONNX Runtime, which knows no older one.

    In two steps where it is older than opset 6: the converter's way from 6 to 7 wants shapes, which it finds when it
    begins, and which it can find from opset 6 on. Where an operand begins at an axis, it would convert to something
    else.
    """
    for node in model.graph.node:
        if {"axis", "broadcast"} <= {attribute.name for attribute in node.attribute}:
            raise GraphError(
                f"{path} is of opset {_opset(model)}, and the {node.op_type} {label(node)} has an operand that begins"
                f" at an axis; export it again with opset {OLDEST_OPSET} or newer"
            )
    try:
        if _opset(model) < _FIRST_WITH_SHAPES:
            model = version_converter.convert_version(model, _FIRST_WITH_SHAPES)
        return version_converter.convert_version(model, OLDEST_OPSET)
    except _ONNX_ERRORS as problem:
        raise GraphError(
            f"{path} is of opset {_opset(model)}, and not all of it can be read ({why(problem)}); export it again"
            f" with opset {OLDEST_OPSET} or newer"
        ) from problem


def _the_input(path: Path, graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """The one input that is no weight: older files list their weights, too."""
    weights = {w.name for w in graph.initializer}
    inputs = [i for i in graph.input if i.name not in weights]
    if len(inputs) != 1:
        raise GraphError(
            f"{path} has {len(inputs)} inputs ({_names(inputs)}), expected one, the images; export it without the rest"
        )
    return inputs[0]


def _geometry(path: Path, images: onnx.ValueInfoProto, size: int | None) -> tuple[int, int]:
    """(batch, crop) of the input."""
    kind, shape = images.type.tensor_type.elem_type, _declared_shape(images)
    match shape:
        case (batch, 3, height, width) if height == width and kind == TensorProto.FLOAT:
            crop = _crop(path, height, size)
            return batch or 1, crop
    found = TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else "data"
    raise GraphError(
        f"{path} takes {found} {_shape_text(shape)}, expected images float32 (N, 3, size, size); export it so"
    )


def _crop(path: Path, side: int | None, size: int | None) -> int:
    if side is None and size is None:
        raise GraphError(f"{path} leaves the size of its images open; give it with --size")
    if side and size and side != size:
        raise GraphError(f"{path} takes images of {side}×{side} pixels, not of {size}×{size}; leave --size out")
    crop = side or size or 0
    if not 1 <= crop <= MAX_SIDE:
        raise GraphError(f"{path} takes images of {crop}×{crop} pixels, at most {MAX_SIDE} are possible")
    return crop


def _declared_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The sides that a file declares, None for one that is open."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)


def _shapes(
    path: Path, model: onnx.ModelProto, images: tuple[int, ...], constants: Arrays
) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors, as far as they follow from the shape of the images and not from what the file says."""
    sized = copy.deepcopy(model)
    sizes = {n: v for n, v in constants.items() if v.dtype == np.int64 and v.size <= _MOST_OF_A_SHAPE}
    others = [node for node in model.graph.node if sizes.keys().isdisjoint(node.output)]
    del sized.graph.value_info[:], sized.graph.node[:]
    sized.graph.node.extend(others)
    sized.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in sizes.items())
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    given = _the_input(path, sized.graph).type.tensor_type.shape
    for dimension, side in zip(given.dim, images, strict=True):
        dimension.dim_value = side
    try:
        graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    except _ONNX_ERRORS as problem:
        raise GraphError(f"{path} has shapes that do not fit each other ({why(problem)}); export it again") from problem
    found = {v.name: _declared_shape(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    shapes = {name: tuple(s or 0 for s in shape) for name, shape in found.items() if shape and None not in shape}
    for name, shape in shapes.items():
        if math.prod(shape) > _MAX_ELEMENTS:
            raise GraphError(f"{path} computes the tensor {name} of {_shape_text(shape)}, which is no GoogLeNet's")
    return shapes


def _computed(model: onnx.ModelProto, where: str) -> Arrays:
    """What depends on constants alone, computed by ONNX Runtime."""
    known = {w.name for w in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if not node.op_type.startswith("Random") and all(name in known for name in node.input if name):
            nodes.append(node)
            known.update(node.output)
    if not nodes:
        return {}
    names = [name for node in nodes for name in node.output if name]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "constants",
        [],
        [onnx.ValueInfoProto(name=name) for name in names],
        [w for w in model.graph.initializer if w.name in read],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    [found] = run_model(alone, names, [{}], where)
    return {name: value for name, value in zip(names, found, strict=True) if isinstance(value, np.ndarray)}


def run_model(model: onnx.ModelProto, outputs: list[str], feeds: Iterable[Arrays], where: str) -> list[list[Any]]:
    """The outputs for each feed, by ONNX Runtime on the CPU, silent. Raises `GraphError`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [session.run(outputs, feed) for feed in feeds]
    except Exception as problem:  # the runtime's own errors have no common base
        raise GraphError(f"ONNX Runtime cannot run {where} ({why(problem)}); export it again") from problem


def _logits(path: Path, graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The output, or what goes into the Softmax that makes it, if that is a row for each image, too."""
    if len(graph.output) != 1:
        raise GraphError(
            f"{path} has {len(graph.output)} outputs ({_names(graph.output)}), expected one, the scores; export it for"
            " inference, without auxiliary heads"
        )
    made_by = {output: node for node in graph.node for output in node.output}
    tensor = _before(made_by, graph.output[0].name)
    last = made_by.get(_before(made_by, tensor, (*NO_OPERATION, *_SAME_VALUES)))
    before = _before(made_by, last.input[0]) if last is not None and last.op_type == "Softmax" else tensor
    return before if len(shapes.get(before, ())) == 2 else tensor


def _before(made_by: dict[str, NodeProto], tensor: str, kinds: Sequence[str] = NO_OPERATION) -> str:
    """The tensor that ``tensor`` is made from by nodes of such kinds alone."""
    while tensor in made_by and made_by[tensor].op_type in kinds:
        tensor = made_by[tensor].input[0]
    return tensor


def _names(values: Iterable[onnx.ValueInfoProto]) -> str:
    names = [value.name for value in values]
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "none"


def _shape_text(shape: tuple[int | None, ...] | None) -> str:
    return "a shape that is not known" if shape is None else f"({', '.join(str(s or '?') for s in shape)})"


def read_labels(path: Path) -> tuple[str, ...]:
    """The lines of a text file, in the order of the classes. Raises `GraphError`."""
    data = read_file(path, limit=_MAX_LABELS_BYTES, error=GraphError)
    try:
        labels = tuple(line.strip() for line in data.decode("utf-8-sig").rstrip().split("\n"))
    except UnicodeDecodeError as problem:
        raise GraphError(f"{path} is no text in UTF-8 ({problem.reason}); expected one label a line") from problem
    lines: dict[str, int] = {}
    for number, name in enumerate(labels, start=1):
        if not is_name(name):
            raise GraphError(f"{path} has no label in line {number} ({name!r}); expected one label a line")
        if name in lines:
            raise GraphError(f"{path} has the label {name!r} in lines {lines[name]} and {number}; make them differ")
        lines[name] = number
    return labels
