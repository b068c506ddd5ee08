"""The calibration cache, read back by a reader that shares no code with the writer."""

from __future__ import annotations

import ast
import logging
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_graph import NESTED, NESTED_SHAPES, SHAPES, TINY, table_of, tiny_graph, whole_googlenet
from wheels import wheel

from googlenet_edge.calibration.lower_tensorrt import lower_fp32_tensorrt, lower_implicit_tensorrt, with_dla_head
from googlenet_edge.calibration.trt_cache import (
    calibration_cache,
    scales_in,
    simulating_cache,
    tensor_scales,
    without_outputs,
)
from googlenet_edge.engines.devices import Version
from googlenet_edge.engines.tensorrt_builder import cache_for
from googlenet_edge.errors import CalibrationError


def read_cache(data: bytes) -> dict[str, np.float32]:
    """Names and scales, as TensorRT's readers take them: after the header, `name: hexadecimal bits`."""
    first, *lines = data.decode("ascii").splitlines()
    assert re.fullmatch(r"TRT-\d+-EntropyCalibration2", first)
    pairs = [line.rsplit(": ", 1) for line in lines]
    assert all(re.fullmatch("[0-9a-f]{8}", bits) for _, bits in pairs)
    return {name: np.frombuffer(int(bits, 16).to_bytes(4, "big"), ">f4")[0] for name, bits in pairs}


@pytest.fixture(scope="module")
def nvidias_reader(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, float]]:
    """`import_scales_from_calib_cache` of NVIDIA Model Optimizer, out of its wheel without all that it depends on."""
    with zipfile.ZipFile(wheel("modelopt.txt", tmp_path_factory.mktemp("modelopt"))) as archive:
        source = archive.read("modelopt/onnx/quantization/calib_utils.py")
    [function] = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "import_scales_from_calib_cache"
    ]
    space = {"struct": struct, "logger": logging.getLogger("modelopt")}
    exec(compile(ast.Module([function], []), "calib_utils.py", "exec"), space)
    return space["import_scales_from_calib_cache"]  # type: ignore[return-value]


def test_model_optimizer_reads_the_scales_that_were_meant(
    nvidias_reader: Callable[[str], dict[str, float]], tmp_path: Path
) -> None:
    graph = whole_googlenet()
    table = table_of(graph)
    lowered = lower_implicit_tensorrt(graph, table)
    (tmp_path / "cache").write_bytes(calibration_cache(graph, table, lowered))
    meant = {f"{name}_scale": float(np.float32(scale)) for name, scale in tensor_scales(graph, table, lowered).items()}
    assert nvidias_reader(str(tmp_path / "cache")) == meant
    assert len(meant) > 100


def tiny_cache() -> dict[str, np.float32]:
    graph, table = tiny_graph(), table_of(tiny_graph())
    return read_cache(calibration_cache(graph, table, lower_implicit_tensorrt(graph, table)))


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ((8, 2, 1), b"TRT-8201-EntropyCalibration2"),
        ((8, 5, 2), b"TRT-8502-EntropyCalibration2"),
        ((8, 6, 2), b"TRT-8602-EntropyCalibration2"),
        ((10, 3, 0), b"TRT-100300-EntropyCalibration2"),
        ((10, 16, 1), b"TRT-101601-EntropyCalibration2"),
    ],
)
def test_a_cache_is_readdressed_to_the_version_that_reads_it(version: Version, line: bytes) -> None:
    graph, table = tiny_graph(), table_of(tiny_graph())
    first, _, scales = calibration_cache(graph, table, lower_implicit_tensorrt(graph, table)).partition(b"\n")
    assert first == b"TRT-8502-EntropyCalibration2"
    assert cache_for(version, first + b"\n" + scales) == line + b"\n" + scales


def test_scales_are_those_of_the_table() -> None:
    table, cache = table_of(tiny_graph()), tiny_cache()
    for tensor in ("images", "stem"):
        assert cache[tensor] == np.float32(table.tensors[tensor].amax / 127)


def test_an_average_has_the_scale_of_what_it_is_of() -> None:
    """A DLA runs no other pool in INT8 (NvInfer.h, `IPoolingLayer`)."""
    table, cache = table_of(tiny_graph()), tiny_cache()
    assert table.tensors["avgpool"].amax != table.tensors["block"].amax
    assert cache["avgpool"] == cache["block"]


def test_an_average_that_only_float_layers_read_has_no_scale() -> None:
    graph, float_nodes = tiny_graph(), {"avgpool", "logits"}
    table = table_of(graph)
    lowered = lower_implicit_tensorrt(graph, table, float_nodes=float_nodes)
    found = tensor_scales(graph, table, lowered, float_nodes=float_nodes)
    assert "block" in found
    assert "avgpool" not in found


def test_what_copies_values_has_the_scale_of_what_it_copies() -> None:
    cache = tiny_cache()
    assert cache["pool"] == cache["stem"] == cache["stem_conv"]
    assert cache["left"] == cache["left_conv"]


def test_a_concat_and_its_inputs_share_the_largest_scale() -> None:
    table, cache = table_of(tiny_graph()), tiny_cache()
    largest = np.float32(max(table.tensors["left"].amax, table.tensors["right"].amax) / 127)
    assert table.tensors["left"].amax != table.tensors["right"].amax
    assert cache["block"] == cache["left"] == cache["right"] == largest


def test_concats_of_concats_share_the_largest_scale() -> None:
    graph = tiny_graph(NESTED, shapes=NESTED_SHAPES)
    graph = graph.with_weights({"left_weight": graph.weights["left_weight"] * 16})
    table = table_of(graph)
    cache = read_cache(calibration_cache(graph, table, lower_implicit_tensorrt(graph, table)))
    largest = np.float32(table.tensors["left"].amax / 127)
    assert {cache[name] for name in ("left", "right", "inner", "outer", "block")} == {largest}


def test_a_concat_has_a_scale_for_a_pool_that_it_joins_as_well() -> None:
    text = TINY.replace("(left, right)", "(left, pool)").replace("  right = Relu (right_conv)\n", "")
    text = re.sub(r"  right_conv = .*\n", "", text)
    graph = tiny_graph(text, shapes={name: shape for name, shape in SHAPES.items() if name != "right"})
    graph = graph.with_weights({"left_weight": graph.weights["left_weight"] / 16})
    table = table_of(graph)
    cache = read_cache(calibration_cache(graph, table, lower_implicit_tensorrt(graph, table)))
    assert table.tensors["stem"].amax > 2 * table.tensors["left"].amax
    assert cache["block"] == np.float32(table.tensors["stem"].amax / 127)


def test_whole_pixels_before_the_network_have_no_scales_that_would_round_them() -> None:
    cache = tiny_cache()
    assert "images" in cache
    assert not {"pixels", "pixels.real", "pixels.planes", "pixels.centred"} & cache.keys()


def test_every_tensor_of_a_whole_googlenet_has_a_scale_but_its_outputs_and_pixels() -> None:
    graph = whole_googlenet()
    table = table_of(graph, count=8)
    lowered = lower_implicit_tensorrt(graph, table)
    tensors = {name for node in lowered.graph.node for name in node.output}
    without = {"logits", "logits.planes", "pixels.real", "pixels.planes", "pixels.centred"}
    assert tensors - tensor_scales(graph, table, lowered).keys() == without


def test_scales_of_logits_that_tensorrt_found_are_left_out() -> None:
    graph = tiny_graph()
    table = table_of(graph)
    lowered = lower_implicit_tensorrt(graph, table)
    kept = calibration_cache(graph, table, lowered)
    outputs = [output.name for output in lowered.graph.output]
    written = kept + "".join(f"{name}: 3c010a14\n" for name in outputs).encode()
    assert outputs
    assert without_outputs(lowered.SerializeToString(), written) == kept


def test_the_table_of_another_graph_is_refused() -> None:
    lowered = lower_fp32_tensorrt(tiny_graph())
    with pytest.raises(CalibrationError, match="belongs to the graph .* calibrate this graph"):
        calibration_cache(tiny_graph(seed=1), table_of(tiny_graph()), lowered)


def test_a_tensor_that_the_table_lacks_is_named() -> None:
    table = table_of(tiny_graph())
    without = replace(table, tensors={n: t for n, t in table.tensors.items() if n != "avgpool"})
    with pytest.raises(CalibrationError, match=r"table does not fit the graph \('avgpool'\); calibrate again"):
        calibration_cache(tiny_graph(), without, lower_fp32_tensorrt(tiny_graph()))


@given(st.floats(2.0**-100, 2.0**100, width=32))
@settings(max_examples=20)
def test_any_scale_comes_back_to_the_last_bit(amax: float) -> None:
    graph, table = tiny_graph(), table_of(tiny_graph())
    changed = replace(table, tensors=table.tensors | {"stem": replace(table.tensors["stem"], amax=amax)})
    lowered = lower_fp32_tensorrt(with_dla_head(graph))
    cache = read_cache(calibration_cache(graph, changed, lowered))
    assert cache["stem"] == np.float32(amax / 127)


def simulated_nodes(cache: bytes) -> list[tuple[str, tuple[str, ...]]]:
    graph = tiny_graph()
    model = simulating_cache(lower_implicit_tensorrt(graph, table_of(graph)), cache)
    onnx.checker.check_model(model, full_check=True)
    return [(node.op_type, tuple(node.output)) for node in model.graph.node]


def test_a_simulation_rounds_what_has_a_scale_and_nothing_else() -> None:
    header = b"TRT-8502-EntropyCalibration2\n"
    one = simulated_nodes(header + b"stem: 3c010a14\n")
    assert [outputs for kind, outputs in one if kind == "DequantizeLinear"] == [("stem.dequantized",)]


def test_a_simulation_computes_a_convolution_in_int8_where_both_its_ends_have_scales() -> None:
    """The weights of the stem are on a grid of 127 steps, or as they were."""
    graph = tiny_graph()
    model = lower_implicit_tensorrt(graph, table_of(graph))
    stem = next(node for node in model.graph.node if node.output[0] == "stem_conv")
    line, header = ": 3c010a14\n", "TRT-8502-EntropyCalibration2\n"

    def weight(*tensors: str) -> NDArray[np.float32]:
        rounded = simulating_cache(model, (header + "".join(f"{tensor}{line}" for tensor in tensors)).encode())
        found = next(w for w in rounded.graph.initializer if w.name == stem.input[1])
        return numpy_helper.to_array(found)

    exact, both = weight(stem.input[0]), weight(stem.input[0], "stem_conv")
    steps = both / (np.abs(exact).max(axis=(1, 2, 3), keepdims=True) / 127)
    assert np.allclose(steps, np.rint(steps), atol=1e-3) and not np.array_equal(exact, both)
    assert np.array_equal(exact, weight("stem_conv"))


@pytest.mark.parametrize("line", [b"x 3c010a14", b": 3c010a14", b"x: 3c01", b"x: ff800000", b"x: xy", b"x: bf800000"])
def test_a_line_that_is_no_scale_is_named(line: bytes) -> None:
    with pytest.raises(
        CalibrationError, match="line 2 of the calibration cache is no tensor with a scale .*; build the"
    ):
        scales_in(b"TRT-8502-EntropyCalibration2\n" + line + b"\n")


def test_a_tensor_that_was_always_zero_has_no_scale() -> None:
    assert scales_in(b"TRT-8502-EntropyCalibration2\ndead: 00000000\nx: 3f800000\n") == {"x": 1.0}
