"""What a lowered model takes: raw pixels, uint8 ``(N, crop, crop, 3)``, as decoders and cameras give them.

A model that computes in float normalizes them in its first nodes. One that computes on codes takes the pixel itself as
its first code wherever the normalization can be moved into the first convolution: then no float image is ever made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from googlenet_edge.calibration.placement import reader_counts
from googlenet_edge.errors import LoweringError
from googlenet_edge.graph import INPUT, InferenceGraph
from googlenet_edge.preprocess import Preprocess

PIXELS = "pixels"
_PLANES = f"{PIXELS}.planes"
_MOST_BORDER_ERROR = 0.5  # codes: what rounding the padding to a code may cost


def taking_pixels(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """A model of normalized float32 ``images`` → the same model of ``pixels``, which normalizes them first.

    To the last bit as `Preprocess.normalize` where the mean is a whole number or a half, as its default is; with
    other means the last digits differ, since that computes in float64.
    """
    real = f"{PIXELS}.real"
    nodes = [_to_planes(_PLANES), helper.make_node("Cast", [_PLANES], [real], name=real, to=TensorProto.FLOAT)]
    return _normalizing(nodes, real, model, preprocess)


def taking_pixels_cast_first(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """As `taking_pixels`, for TensorRT, which lets nothing but a Cast read uint8."""
    return _normalizing(_cast_to_planes(), _PLANES, model, preprocess)


def taking_pixels_less(model: onnx.ModelProto, zero_point: int, *, crop: int) -> onnx.ModelProto:
    """A model whose float32 ``images`` are ``pixel - zero_point`` → the same model of ``pixels``, for TensorRT."""
    constant = f"{PIXELS}.zero_point"
    nodes = [*_cast_to_planes(), helper.make_node("Sub", [_PLANES, constant], [INPUT], name=INPUT)]
    return _behind(nodes, [numpy_helper.from_array(np.float32(zero_point), constant)], model, crop=crop)


def taking_codes(model: onnx.ModelProto, codes: str, *, crop: int) -> onnx.ModelProto:
    """A model that reads the tensor ``codes``, uint8 ``(N, 3, crop, crop)`` → the same model of ``pixels``."""
    return _behind([_to_planes(codes)], [], model, crop=crop)


def taking_planes(model: bytes, *, crop: int) -> bytes:
    """A serialized TensorRT model of pixels → the same of planes: float32 ``pixels`` ``(N, 3, crop, crop)``, 0 to 255.

    It gives the softmax of the logits as ``probabilities``: what DeepStream's classifier feeds and reads.

    Raises:
        LoweringError: the model does not begin as those that were lowered for TensorRT.
    """
    made = onnx.load_model_from_string(model)
    graph = made.graph
    head, rest = list(graph.node[:2]), list(graph.node[2:])
    if [node.op_type for node in head] != ["Cast", "Transpose"] or head[1].output[0] != _PLANES:
        raise LoweringError("the model does not begin with the pixels' cast and transposition; build the bundle again")
    for node in rest:
        node.input[:] = [PIXELS if name == _PLANES else name for name in node.input]
    logits = graph.output[0]
    softmax = helper.make_node("Softmax", [logits.name], ["probabilities"], name="probabilities", axis=1)
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*rest, softmax])
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["N", 3, crop, crop]))
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]))
    onnx.checker.check_model(made)
    return made.SerializeToString()


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A model whose ``images`` are ``pixel - zero_point``, and no longer normalized.

    ``border``, float32 ``(3, 1, 1)``, is what its padding stands for after normalization.
    """

    model: onnx.ModelProto
    zero_point: int
    border: NDArray[np.float32]


def absorb_normalization(graph: InferenceGraph) -> Absorbed | None:
    """Moves the normalization into the first convolution, so that pixels are codes of scale 1.

    ``w · (x - mean) / std`` is ``(w / std) · (x - zero_point)`` and, for every output channel, the constant
    ``Σ (w / std) · (zero_point - mean)``, which goes into the bias. The input is then not rounded at all.

    It is exact but where the convolution reaches over the border: padding has the code ``zero_point``, which stands
    for ``(zero_point - mean) / std`` and not for zero. With the default mean of 127.5 that is half a code, 0.2 % of
    the input's range. There is no code for the mean, so padding explicitly would not help.

    Returns None where the padding would be off by more than half a code, because the channels' means are apart (as
    ImageNet's are), or where something else than one convolution reads the input.
    """
    conv = _first_convolution(graph.model.graph)
    mean, std = np.array(graph.preprocess.mean), np.array(graph.preprocess.std)
    zero_point = round((mean.min() + mean.max()) / 2)
    offset = zero_point - mean
    if conv is None or not 0 <= zero_point <= 255 or np.abs(offset).max() > _MOST_BORDER_ERROR:
        return None
    model = copy.deepcopy(graph.model)
    stored = {value.name: value for value in model.graph.initializer}
    weight, bias = (stored[name] for name in conv.input[1:])
    scaled = numpy_helper.to_array(weight).astype(np.float64) / std[:, None, None]
    shifted = numpy_helper.to_array(bias) + (scaled * offset[:, None, None]).sum(axis=(1, 2, 3))
    _store(weight, scaled)
    _store(bias, shifted)
    return Absorbed(model, zero_point, (offset / std).astype(np.float32).reshape(3, 1, 1))


def _first_convolution(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """The convolution that alone reads the input, with a weight and a bias that it alone reads."""
    constants, times_read = {value.name for value in graph.initializer}, reader_counts(graph)
    readers = [node for node in graph.node if INPUT in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv" or len(readers[0].input) != 3:
        return None
    own = [name in constants and times_read[name] == 1 for name in readers[0].input[1:]]
    return readers[0] if all(own) else None


def _normalizing(
    nodes: list[onnx.NodeProto], source: str, model: onnx.ModelProto, preprocess: Preprocess
) -> onnx.ModelProto:
    centred, mean, std = f"{PIXELS}.centred", f"{PIXELS}.mean", f"{PIXELS}.std"
    nodes += [
        helper.make_node("Sub", [source, mean], [centred], name=centred),
        helper.make_node("Div", [centred, std], [INPUT], name=INPUT),
    ]
    constants = [_per_channel(mean, preprocess.mean), _per_channel(std, preprocess.std)]
    return _behind(nodes, constants, model, crop=preprocess.crop)


def _cast_to_planes() -> list[onnx.NodeProto]:
    """``pixels`` → float32 ``pixels.planes`` ``(N, 3, crop, crop)``."""
    real = f"{PIXELS}.real"
    cast = helper.make_node("Cast", [PIXELS], [real], name=real, to=TensorProto.FLOAT)
    return [cast, helper.make_node("Transpose", [real], [_PLANES], name=_PLANES, perm=[0, 3, 1, 2])]


def _to_planes(output: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [PIXELS], [output], name=output, perm=[0, 3, 1, 2])


def _per_channel(name: str, values: tuple[float, ...]) -> onnx.TensorProto:
    """One number where all channels have the same, which a runtime computes with faster; else ``(1, 3, 1, 1)``."""
    array = np.array(values, np.float32)
    return numpy_helper.from_array(array[0] if len(set(values)) == 1 else array.reshape(1, 3, 1, 1), name)


def _store(tensor: onnx.TensorProto, value: NDArray[np.float64]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))


def _behind(
    nodes: Iterable[onnx.NodeProto], constants: Iterable[onnx.TensorProto], model: onnx.ModelProto, *, crop: int
) -> onnx.ModelProto:
    """A model of ``pixels`` that runs ``nodes`` and then another model's."""
    made = copy.deepcopy(model)
    del made.graph.input[:], made.graph.node[:], made.metadata_props[:]
    made.graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["N", crop, crop, 3]))
    made.graph.node.extend([*nodes, *model.graph.node])
    made.graph.initializer.extend(constants)
    return made
